"""The page in a real browser: what it shows, to whom, and what it survives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.dashboard.browser import find_chromium
from tests.dashboard.page_server import PageServer
from tests.dashboard.views import Comings, Views, Workflow, team

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.async_api import Browser, Page, expect

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH; KVFLOW_CHROMIUM can name one"
)
CALLS = "Number(document.querySelector('#workflows td:nth-child(4)').textContent)"
SCREENSHOTS = os.environ.get("KVFLOW_SCREENSHOTS")
CHART_POINTS = 900
# So many views that a page is held to what it held; a day has 86,400.
VIEWS_BETWEEN = int(os.environ.get("KVFLOW_PAGE_VIEWS", "2000"))
MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


async def until(page: Page, condition: str) -> None:
    """Look again after each view; the page's own policy forbids the browser to poll for it."""
    while not await page.evaluate(condition):
        await page.wait_for_event("requestfinished")


async def keep(page: Page, name: str) -> None:
    """Keep a screenshot where somebody wants to look at it."""
    if SCREENSHOTS is not None:
        await page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("agents", "kind"), [(3, "graph"), (24, "graph"), (300, "lanes")])
async def test_every_agent_is_shown_in_either_scheme(
    browser: Browser, agents: int, kind: str, scheme: str
) -> None:
    workflows = [team("thread-7", agents), *(team(f"thread-{n}", 5) for n in range(8, 27))]
    async with PageServer(Views(workflows)) as server:
        page = await browser.new_page(
            viewport={"width": 1440, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        await page.goto(server.url)
        box = ".steps .agent" if kind == "graph" else ".chip"
        await expect(page.locator(box)).to_have_count(agents)
        await expect(page.locator("#agents tbody tr")).to_have_count(min(agents, 50))
        await expect(page.locator("#workflows tbody tr")).to_have_count(20)
        await expect(page.locator("#pool-chart canvas")).to_have_count(1)
        await expect(page.locator("#optimum-note")).to_contain_text("of what MIN would have found")
        # Nothing that is there to be read is cut off.
        cut = await page.evaluate(
            """() => [...document.querySelectorAll("td, thead th, #optimum-table th")]
              .filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
              .map((cell) => cell.textContent)"""
        )
        assert cut == []
        paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(14, 17, 22)") == (scheme == "dark")
        await until(page, f"{CALLS} >= 9")
        await keep(page, f"dashboard-{agents}-{scheme}")


async def test_a_view_changes_what_is_shown_and_adds_nothing(page: Page) -> None:
    views = Views([team("w", 60)])
    async with PageServer(views) as server:
        await page.goto(server.url)
        await expect(page.locator(".chip")).to_have_count(60)
        await expect(page.locator("#agents tbody tr")).to_have_count(50)
        calls = page.locator("#workflows td:nth-child(4)")
        before = await calls.inner_text()
        lanes_before = await page.locator(".lane").first.inner_text()
        elements = """document.querySelectorAll("#main *").length
          - document.querySelectorAll(".lane *").length"""
        count = await page.evaluate(elements)
        await expect(calls).not_to_have_text(before)
        await expect(page.locator(".lane").first).not_to_have_text(lanes_before)
        await until(page, f"{CALLS} > {int(before) + 8}")
        assert await page.evaluate(elements) == count


async def test_names_are_shown_as_text_whatever_they_are(page: Page) -> None:
    names = [MARKUP, "__proto__", "constructor", "流れ/作家", "a" * 256]
    edges = [(names[place], names[place + 1], 3) for place in range(4)]
    workflow = Workflow(MARKUP, names, edges)
    async with PageServer(Views([workflow, Workflow("__proto__", ["b"], [])])) as server:
        await page.goto(server.url)
        await expect(page.locator("#workflow-title")).to_have_text(f"Workflow {MARKUP}")
        await expect(page.locator(".steps .agent")).to_have_count(5)
        shown = await page.locator("#agents tbody th").all_inner_texts()
        assert sorted(shown) == sorted(names)
        await page.locator('input[name="kind"][value="lanes"]').check()
        await expect(page.locator(".chip")).to_have_count(5)
        await page.locator("#agents tbody button").first.click()
        await expect(page.locator("#workflow-note")).to_contain_text("followed by")
        await keep(page, "dashboard-markup")
        assert await page.evaluate("window.hacked") is None
        assert await page.locator("img").count() == 0
        blocked = await page.evaluate(
            """() => new Promise((done) => {
              document.addEventListener("securitypolicyviolation", () => done(true));
              const script = document.createElement("script");
              script.textContent = "window.hacked = 1";
              document.body.append(script);
            })"""
        )
        assert blocked and await page.evaluate("window.hacked") is None


async def test_a_server_that_goes_and_comes_back_is_told_of(page: Page) -> None:
    views = Views([team("w", 3)])
    server = PageServer(views)
    await server.start()
    await page.goto(server.url)
    notice = page.locator("#notice")
    await expect(page.locator("#agents tbody tr")).to_have_count(3)
    await expect(notice).to_have_text("")
    await server.stop()
    await expect(notice).to_contain_text("No answer from the server")
    await keep(page, "dashboard-lost")
    views.server = "second"
    await server.start()
    try:
        await expect(notice).to_contain_text("The server was restarted", timeout=20_000)
        assert await notice.get_attribute("aria-live") == "polite"
        asked = views.asked
        while views.asked < asked + 2:
            await page.wait_for_event("requestfinished")
    finally:
        await server.stop()


async def test_a_page_that_stays_open_holds_no_more_than_before(page: Page) -> None:
    # A second passes in no time: more views than the charts have points, and some more.
    await page.add_init_script(
        "const later = window.setTimeout;"
        "window.setTimeout = (task, ms) => later(task, ms === 1000 ? 0 : ms);"
    )
    views = Comings([team("w", 12)])
    session = await page.context.new_cdp_session(page)
    held: list[dict[str, int]] = []
    async with PageServer(views) as server:
        await page.goto(server.url)
        for asked in (CHART_POINTS + 20, CHART_POINTS + VIEWS_BETWEEN):
            while views.asked < asked:
                await page.wait_for_event("requestfinished")
            await session.send("HeapProfiler.collectGarbage")
            heap = await session.send("Runtime.getHeapUsage")
            kept = await session.send("Memory.getDOMCounters")
            elements = await page.evaluate("document.querySelectorAll('*').length")
            held.append({"heap": heap["usedSize"], "elements": elements} | kept)
    before, after = held
    # To keep what charts show of the second part would take as much again.
    assert after["heap"] < 1.5 * before["heap"], held
    assert after["elements"] == before["elements"]
    # Of charts that were drawn anew for other holders nothing is left, on the page or beside it.
    assert after["nodes"] < 1.25 * before["nodes"], held
    assert after["jsEventListeners"] <= 1.25 * before["jsEventListeners"], held


async def test_the_key_is_asked_for_and_kept_in_the_tab(page: Page) -> None:
    async with PageServer(Views([team("w", 3)]), key="sesame") as server:
        await page.goto(server.url)
        await expect(page.locator("#key-input")).to_be_focused()
        await expect(page.locator("#main")).to_be_hidden()
        await page.keyboard.type("wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#notice")).to_contain_text("was not accepted")
        await page.locator("#key-input").fill("sesame")
        await page.keyboard.press("Enter")
        await expect(page.locator("#agents tbody tr")).to_have_count(3)
        await expect(page.locator("#key")).to_be_hidden()
        await expect(page.locator("#notice")).to_have_text("")
        await page.reload()
        await expect(page.locator("#agents tbody tr")).to_have_count(3)
        assert "sesame" not in await page.content()


async def test_all_of_it_can_be_reached_with_the_keyboard(page: Page) -> None:
    async with PageServer(Views([team("one", 60), team("two", 5)])) as server:
        await page.goto(server.url)
        await expect(page.locator("#agents tbody tr")).to_have_count(50)
        stops: list[str] = []
        while stops.count("pause") < 2:
            await page.keyboard.press("Tab")
            stops.append(
                await page.evaluate("(document.activeElement.closest('[id]') ?? document.body).id")
            )
        expected = ["pause", "pool-tier", "pool-by", "workflows", "graph", "agents-order", "agents"]
        found = [stop for stop in dict.fromkeys(stops) if stop in expected]
        assert found == expected, stops
        assert stops.count("agents") == 1, "a table is one stop, however long"
        await page.locator('#workflows button[tabindex="0"]').focus()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.locator("#workflow-title")).to_have_text("Workflow two")
        await expect(page.locator("#agents tbody tr")).to_have_count(5)
        await page.locator('#agents button[tabindex="0"]').focus()
        await page.keyboard.press("End")
        await page.keyboard.press("Enter")
        await expect(page.locator("#agents tr.selected")).to_have_count(1)


async def test_a_screen_reader_finds_titles_tables_and_their_headers(page: Page) -> None:
    async with PageServer(Views([team("w", 60)])) as server:
        await page.goto(server.url)
        await expect(page.locator("#agents tbody tr")).to_have_count(50)
        for title in ("Who holds the pool", "How far from the optimum", "Workflows", "Workflow w"):
            await expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
            await expect(page.get_by_role("region", name=title, exact=True).first).to_be_visible()
        table = page.get_by_role("table", name="Agents of the workflow")
        assert await table.get_by_role("columnheader").count() == 17
        await expect(table.get_by_role("rowheader").first).to_be_visible()
        assert await table.get_by_role("button", pressed=False).count() == 50
        chips = await page.locator(".lane:not([aria-hidden])").count()
        assert chips == 0, "what the table says is not said twice"


async def test_a_long_list_is_turned_page_by_page_and_a_workflow_can_be_linked(page: Page) -> None:
    workflows = [team(f"w{n}", 4) for n in range(45)]
    workflows[44].done = True
    async with PageServer(Views(workflows)) as server:
        await page.goto(f"{server.url}#w44")
        await expect(page.locator("#workflow-title")).to_have_text("Workflow w44, ended")
        await page.get_by_role("button", name="Next workflows").click()
        await page.get_by_role("button", name="Next workflows").click()
        await expect(page.locator("#workflows tbody tr")).to_have_count(5)
        await expect(page.get_by_role("button", name="Next workflows")).to_be_disabled()
        await page.goto("about:blank")
        await page.goto(f"{server.url}#nobody")
        await expect(page.locator("#workflow-note")).to_contain_text("does not know this workflow")


async def test_equal_names_of_two_tenants_are_two_workflows(page: Page) -> None:
    tenants = ["a1b2c3d4e5f6", "0f1e2d3c4b5a"]
    workflows = [
        Workflow("run", ["own"], []),
        *(Workflow("run", [f"of-{each}"], [], tenant=each) for each in tenants),
    ]
    async with PageServer(Views(workflows)) as server:
        await page.goto(server.url)
        title, agent = page.locator("#workflow-title"), page.locator("#agents tbody th")
        await expect(agent).to_have_text("own")
        for place, tenant in enumerate(tenants, start=1):
            await page.locator("#workflows tbody button").nth(place).click()
            await expect(title).to_have_text(f"Workflow run (tenant {tenant[:8]})")
            await expect(agent).to_have_text(f"of-{tenant}")
            await expect(page.locator("#workflows tr.selected")).to_have_count(1)
        await page.reload()
        await expect(agent).to_have_text(f"of-{tenants[-1]}")
        holders = await page.locator("#pool-table tbody th").all_inner_texts()
        assert len(holders) == len(set(holders))


async def test_a_paused_page_asks_for_nothing(page: Page) -> None:
    views = Views([team("w", 3)])
    async with PageServer(views) as server:
        await page.goto(server.url)
        await expect(page.locator("#agents tbody tr")).to_have_count(3)
        await page.get_by_role("button", name="Pause").click()
        updated = await page.locator("#updated").inner_text()
        asked = views.asked
        await page.wait_for_timeout(1500)
        assert views.asked - asked <= 1
        assert await page.locator("#updated").inner_text() == updated
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("#updated")).not_to_have_text(updated)
