"""The page of a real server, in a real browser: who may see it, and what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from kvflow_sglang import dashboard
from kvflow_sglang.server_process import ServerProcess
from tests.dashboard.browser import FLAGS, find_chromium
from tests.sglang.agents_in_turn import FLAGS as SERVER_FLAGS
from tests.sglang.agents_in_turn import PREFIX_TOKENS, TAIL_TOKENS, prompt_of
from tests.sglang.kvflow_client import Client, Run

KEY = "sesame"


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server with an API key that has served one workflow of three agents."""
    log = tmp_path_factory.mktemp("dashboard") / "server.log"
    with ServerProcess(tiny_model, [*SERVER_FLAGS, "--api-key", KEY], log=log) as server:
        client = Client(server.base_url, KEY)
        run = Run("<b>thread</b>", app="app")
        for call in range(6):
            agent = call % 3
            steps = {f"agent-{each}": (each - agent) % 3 for each in range(3)}
            params = run.params(steps, f"agent-{agent}")
            client.complete(prompt_of(agent, call), custom_params=params)
        yield client


def test_the_page_needs_no_key_and_its_data_does(client: Client) -> None:
    for url_path, file in dashboard.FILES.items():
        with urlopen(f"{client.base_url}{url_path}") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == file.media_type
            assert answer.headers["Content-Security-Policy"] == dashboard.POLICY
            assert answer.read() == file.path.read_bytes()
    with urlopen(f"{client.base_url}/kvflow") as answer:
        assert answer.url == f"{client.base_url}/kvflow/"
    stranger = Client(client.base_url)
    for path in ("/kvflow/view", "/kvflow/status", "/kvflow/page/nothing.js", "/v1/models"):
        assert stranger.get(path).status == 401, path
    for path in ("/kvflow/page/nothing.js", "/kvflow/page/..%2Fview.py"):
        assert client.get(path).status == 404
    assert stranger.send("/kvflow/", b"{}").status == 401


def test_the_view_tells_of_each_agent_and_of_the_pool(client: Client) -> None:
    answer = client.get("/kvflow/view?workflow=%3Cb%3Ethread%3C/b%3E")
    assert answer.status == 200
    view = answer.body["view"]
    agents = {row["agent"]: row for row in view["workflow"]["agents"]}
    assert sorted(agents) == ["agent-0", "agent-1", "agent-2"]
    assert agents["agent-2"]["steps"] == 0
    assert agents["agent-0"]["calls"] == 2
    prefix = agents["agent-0"]["prefix"]
    # Its two prompts may share some of what comes after.
    assert PREFIX_TOKENS <= sum(prefix.values()) < PREFIX_TOKENS + TAIL_TOKENS
    assert prefix["gone"] == 0
    assert ["agent-0", "agent-1", 2] in view["workflow"]["edges"]
    device = view["pool"]["device"]
    assert 0 < device["expected"] <= device["tokens"]
    assert view["optimum"]["requests"] >= 6
    assert view["optimum"]["optimum"] >= view["optimum"]["lru"]
    assert client.get("/kvflow/view?agents_limit=301").status == 400
    assert client.get("/kvflow/view?workflow=nobody").body["view"]["workflow"] is None


async def test_a_browser_shows_what_the_server_knows(client: Client) -> None:
    playwright_api = pytest.importorskip("playwright.async_api", reason="no playwright")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on the PATH; KVFLOW_CHROMIUM can name one")
    expect = playwright_api.expect
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = await browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(f"{client.base_url}/kvflow/")
        await page.locator("#key-input").fill(KEY)
        await page.keyboard.press("Enter")
        await expect(page.locator("#workflow-title")).to_have_text("Workflow <b>thread</b>")
        await expect(page.locator("#agents tbody tr")).to_have_count(3)
        await expect(page.locator(".steps .agent")).to_have_count(3)
        await expect(page.locator("#optimum-note")).to_contain_text("prompts")
        await browser.close()
    assert problems == []
