"""A real server with both of SGLang's keys: who may see what, and what is kept of a prompt."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from kvflow_agents.hints import encode_body
from kvflow_agents.servers import Server
from kvflow_sglang.server_process import ServerProcess
from tests.dashboard.browser import FLAGS as BROWSER_FLAGS
from tests.dashboard.browser import find_chromium
from tests.sglang.agents_in_turn import FLAGS
from tests.sglang.kvflow_client import Client, Reply, Run, completion_body

KEY, ADMIN_KEY = "sesame", "open-sesame"
MARKER = "marker9b1d of which nobody may keep a copy"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security") / "server.log"


@pytest.fixture(scope="module")
def client(tiny_model: Path, log: Path) -> Iterator[Client]:
    keys = ["--api-key", KEY, "--admin-api-key", ADMIN_KEY]
    with ServerProcess(tiny_model, [*FLAGS, *keys, "--enable-metrics"], log=log) as server:
        yield Client(server.base_url, KEY)


def complete(client: Client, salt: str | None, run: Run, agent: str = "writer") -> None:
    body = completion_body(f"{MARKER} of {salt}", run.params({agent: 1}, agent))
    assert client.post("/v1/completions", body | {"cache_salt": salt}).status == 200


def get(client: Client, path: str, salt: str | None) -> Reply:
    """As the tenant of a salt asks."""
    headers = Server(client.base_url, KEY, cache_salt=salt).headers()
    try:
        with urlopen(Request(client.base_url + path, headers=headers)) as answer:
            return Reply(answer.status, json.loads(answer.read()))
    except OSError as error:
        return Reply(int(getattr(error, "code", 0)), None)


def test_tenants_see_their_own_workflows_alone(client: Client) -> None:
    for salt, agent in (("one", "a"), ("two", "b")):
        complete(client, salt, Run("same name", app="app"), agent)
    path = "/kvflow/workflows/same%20name"
    for salt, agent in (("one", "a"), ("two", "b")):
        found = get(client, path, salt)
        assert [row["agent"] for row in found.body["agents"]] == [agent]
        assert get(client, "/kvflow/workflows", salt).body["total"] == 1
    for stranger in ("three", None):
        assert get(client, path, stranger).status == 404
        assert get(client, "/kvflow/workflows", stranger).body["total"] == 0


def test_a_tenant_ends_its_own_workflow_alone(client: Client) -> None:
    one, two = Run("to end"), Run("to end")
    complete(client, "one", one)
    complete(client, "two", two)
    url = f"{client.base_url}/kvflow/forecast"
    headers = Server(client.base_url, KEY, cache_salt="one").headers()
    body = json.dumps(encode_body(one.done())).encode()
    with urlopen(Request(url, body, headers | {"Content-Type": "application/json"})) as answer:
        assert json.loads(answer.read()) == {"outcome": "accepted"}
    assert get(client, "/kvflow/workflows/to%20end", "one").body["done"] is True
    assert get(client, "/kvflow/workflows/to%20end", "two").body["done"] is False


def test_what_everybody_does_is_shown_to_the_admin_key_alone(client: Client) -> None:
    complete(client, "one", Run("seen by the operator"))
    assert client.get("/kvflow/view").status == 401
    operator = Client(client.base_url, ADMIN_KEY)
    view = operator.get("/kvflow/view").body["view"]
    assert any(row["workflow"] == "seen by the operator" for row in view["workflows"]["workflows"])
    assert operator.get("/kvflow/workflows").status == 401  # an ordinary endpoint: SGLang's rule


async def test_the_operators_page_opens_every_tenants_workflow(client: Client) -> None:
    playwright_api = pytest.importorskip("playwright.async_api", reason="no playwright")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on the PATH; KVFLOW_CHROMIUM can name one")
    for salt in ("one", "two"):
        complete(client, salt, Run("opened"), f"agent of {salt}")
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        page = await browser.new_page()
        await page.goto(f"{client.base_url}/kvflow/")
        await page.locator("#key-input").fill(ADMIN_KEY)
        await page.keyboard.press("Enter")
        opened = page.locator("#workflows tbody button", has_text="opened (tenant")
        await playwright_api.expect(opened).to_have_count(2)
        for place, salt in enumerate(("two", "one")):  # the one heard last first
            await opened.nth(place).click()
            agent = page.locator("#agents tbody th")
            await playwright_api.expect(agent).to_have_text(f"agent of {salt}")
        await browser.close()


@pytest.mark.parametrize("path", ["/kvflow/forecast", "/kvflow/workflows?limit=x", "/kvflow/view"])
def test_keys_are_looked_at_before_anything_else(client: Client, path: str) -> None:
    refused = client.refused()
    stranger = Client(client.base_url, "wrong")
    assert stranger.send(path, b"{" if path.endswith("forecast") else None).status == 401
    assert client.refused() == refused


def test_a_stranger_is_refused_before_its_body_is_read(client: Client) -> None:
    address = urlsplit(client.base_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.putrequest("POST", "/kvflow/forecast")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    connection.send(b"{")  # and no more
    assert connection.getresponse().status == 401
    connection.close()


def test_a_forged_tenant_counts_for_nothing(client: Client) -> None:
    run = Run("forged")
    params: dict[str, Any] = run.params({"a": 1}, "a")
    tenant = Client(client.base_url, ADMIN_KEY).get("/kvflow/view?limit=1")
    (row,) = tenant.body["view"]["workflows"]["workflows"]
    forged = params | {"kvflow_tenant": row["tenant"]}
    client.complete("hello", custom_params=forged)
    assert get(client, "/kvflow/workflows/forged", None).status == 200
    assert get(client, "/kvflow/workflows/forged", "one").status == 404


def test_nothing_of_a_prompt_is_kept_or_logged(client: Client, log: Path) -> None:
    for salt in (None, "one"):
        complete(client, salt, Run("marked"))
    for salt in (None, "one"):
        body = completion_body(MARKER, None)
        assert client.post("/v1/completions", body | {"cache_salt": salt}).status == 200
    bad = completion_body(MARKER, {"kvflow": {"v": 1, "workflow": ""}})
    assert client.post("/v1/completions", bad).status == 200
    operator = Client(client.base_url, ADMIN_KEY)
    kept = [
        *(
            str(operator.get(path).body)
            for path in ("/kvflow/view", "/kvflow/view?workflow=marked")
        ),
        *(str(get(client, path, "one").body) for path in ("/kvflow/workflows/marked",)),
        *(str(client.get(path).body) for path in ("/kvflow/status", "/kvflow/workflows/marked")),
        str(client.get("/metrics").body),
        log.read_text(errors="replace"),
    ]
    assert all(len(each) > 100 for each in kept)
    assert not any("marker9b1d" in each for each in kept)
