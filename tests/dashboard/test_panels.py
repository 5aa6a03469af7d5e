"""What can be switched, turned and ordered on the page, what its charts draw, and its colours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.dashboard.browser import find_chromium
from tests.dashboard.page_server import PageServer
from tests.dashboard.views import Views, Workflow, team

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.async_api import Browser, Page, expect

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on the PATH; KVFLOW_CHROMIUM can name one"
)
# Lets tests see what the charts were given last, by the ids of their elements.
WATCH_CHARTS = """
  window.drawn = {};
  let made;
  Object.defineProperty(window, "uPlot", {
    get: () => made,
    set: (real) => {
      made = function (options, data, element) {
        const plot = new real(options, data, element);
        const put = plot.setData;
        drawn[element.id] = data;
        plot.setData = (later) => { drawn[element.id] = later; put(later); };
        return plot;
      };
    },
  });
"""
# So many that all is drawn, a piece in each.
FRAMES = """new Promise((done) => {
  let left = 60;
  const next = () => (left-- ? requestAnimationFrame(next) : done());
  next();
})"""
# All text that is shown, its colour and what is painted behind it.
READ_COLOURS = """() => {
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.nodeValue.trim() || !element.checkVisibility()) continue;
    if (element.closest(".sr, .skip, noscript, button:disabled")) continue;
    const style = getComputedStyle(element);
    const behind = [];
    for (let each = element; each; each = each.parentElement) {
      behind.push(getComputedStyle(each).backgroundColor);
    }
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const key = [ink, behind].join();
    found.set(key, { ink, behind, text: walker.currentNode.nodeValue.trim() });
  }
  return [...found.values()];
}"""


def channels(colour: str) -> tuple[float, float, float, float]:
    """Red, green, blue and alpha of a computed colour, from 0 to 1."""
    figures = [float(each) for each in re.findall(r"[0-9.]+(?:e-?[0-9]+)?", colour)]
    scale = 1.0 if colour.startswith("color(") else 255.0
    red, green, blue = (each / scale for each in figures[:3])
    return red, green, blue, figures[3] if len(figures) > 3 else 1.0


def over(behind: list[str]) -> tuple[float, ...]:
    """What shows of a pile of colours, the nearest first."""
    shown: tuple[float, ...] = (1.0, 1.0, 1.0)
    for colour in reversed(behind):
        *light, alpha = channels(colour)
        shown = tuple(
            alpha * one + (1 - alpha) * other for one, other in zip(light, shown, strict=True)
        )
    return shown


def luminance(light: tuple[float, ...]) -> float:
    """As WCAG 2 defines it."""
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in light
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast(over(["rgb(0, 0, 0)"]), over(["rgb(255, 255, 255)"])) == pytest.approx(21)
    grey = over(["rgba(0, 0, 0, 0.5)", "rgb(255, 255, 255)"])
    assert contrast(grey, over(["rgb(255, 255, 255)"])) == pytest.approx(3.95, abs=0.03)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_stands_out_from_what_is_behind_it(browser: Browser, scheme: Any) -> None:
    async with PageServer(
        Views([team("w", 24), Workflow("empty", ["a"], [], done=True)])
    ) as server:
        page = await browser.new_page(color_scheme=scheme)
        await page.goto(server.url)
        for kind in ("lanes", "graph"):
            await page.locator(f'input[name="kind"][value="{kind}"]').check()
            await expect(
                page.locator(".chip" if kind == "lanes" else ".steps .agent")
            ).to_have_count(24)
            await page.locator("#agents tbody button").first.click()
            await expect(page.locator("#agents tr.selected")).to_have_count(1)
            colours = await page.evaluate(READ_COLOURS)
            assert len(colours) > 5
            faint = {
                each["text"]: contrast(over([each["ink"]]), over(each["behind"]))
                for each in colours
            }
            assert {text: ratio for text, ratio in faint.items() if ratio < 4.5} == {}
            await page.locator("#agents tbody button").first.click()


async def figures(page: Page) -> dict[str, int]:
    """The pool's table."""
    names = await page.locator("#pool-table tbody th").all_inner_texts()
    tokens = await page.locator("#pool-table tbody td:nth-child(2)").all_inner_texts()
    return {name: int(each.replace(",", "")) for name, each in zip(names, tokens, strict=True)}


async def test_the_pool_is_told_by_owner_and_by_standing_of_either_tier(page: Page) -> None:
    views = Views([team(f"w{place}", 3) for place in range(4)])
    async with PageServer(views) as server:
        await page.goto(server.url)
        await expect(page.locator("#pool-table tbody tr")).to_have_count(8)
        await page.get_by_role("button", name="Pause").click()
        for tier, whole in (("Device", 400_000), ("Host", 800_000)):
            await page.get_by_label(tier, exact=True).check()
            await page.get_by_label("By owner").check()
            await expect(page.locator("#pool-table")).to_contain_text("other workflows")
            by_owner = await figures(page)
            await page.get_by_label("By standing").check()
            await expect(page.locator("#pool-table")).to_contain_text("ordinary")
            await expect(page.locator("#pool-table")).not_to_contain_text("other workflows")
            by_standing = await figures(page)
            assert sum(by_owner.values()) == sum(by_standing.values()) == whole
            assert by_owner["free"] == by_standing["free"]
            assert list(by_standing) == [
                "expected",
                "ordinary",
                "spent",
                "running requests",
                "free",
            ]
        assert {name: by_owner[name] for name in ("w0", "w3")} == {"w0": 9_000, "w3": 9_000}
        assert (by_standing["expected"], by_standing["spent"]) == (50_000, 1_000)


async def test_who_held_the_pool_before_keeps_name_and_colour_in_the_chart(page: Page) -> None:
    views = Views([team("stays", 3), team("ends", 3)])
    async with PageServer(views) as server:
        await page.goto(server.url)
        await expect(page.locator("#pool-table")).to_contain_text("ends")
        row = page.locator("#pool-table tr", has_text="ends")
        colour = await row.locator(".swatch").get_attribute("style")
        views.workflows.pop()
        await expect(row.locator("td").first).to_have_text("0")
        assert await row.locator(".swatch").get_attribute("style") == colour


async def test_agents_come_in_the_order_that_is_asked_for_and_page_by_page(page: Page) -> None:
    async with PageServer(Views([team("w", 650)])) as server:
        await page.goto(server.url)
        rows = page.locator("#agents tbody tr")
        await expect(rows).to_have_count(50)
        await expect(page.locator("#rows-pager")).to_contain_text("1 to 50 of 300")
        await expect(page.locator("#agents-pager")).to_contain_text("1 to 300 of 650")
        for _ in range(5):
            await page.get_by_role("button", name="Next rows").click()
        await expect(page.locator("#rows-pager")).to_contain_text("251 to 300 of 300")
        await expect(page.get_by_role("button", name="Next rows")).to_be_disabled()
        await page.get_by_role("button", name="Next agents").click()
        await page.get_by_role("button", name="Next agents").click()
        await expect(page.locator("#agents-pager")).to_contain_text("601 to 650 of 650")
        await expect(page.get_by_role("button", name="Next rows")).to_be_hidden()
        await expect(rows).to_have_count(50)
        await page.get_by_role("button", name="Pause").click()
        for order, column in (
            ("gone", 9),
            ("lost_tokens", 13),
            ("wasted_tokens", 16),
            ("calls", 10),
        ):
            await page.locator("#agents-order").select_option(order)
            await page.evaluate(FRAMES)
            said = await page.locator(f"#agents tbody td:nth-child({column})").all_inner_texts()
            tokens = [int(each.replace(",", "").replace("–", "0")) for each in said]
            assert tokens == sorted(tokens, reverse=True), order
        await page.locator("#agents-order").select_option("steps")
        await page.evaluate(FRAMES)
        soonest = await page.locator("#agents tbody td:nth-child(2)").all_inner_texts()
        assert soonest[-1] == "not expected" and soonest[0] != "not expected"


async def test_charts_have_a_gap_where_nothing_was_known(page: Page) -> None:
    await page.add_init_script(WATCH_CHARTS)
    views = Views([team("w", 3)])
    server = PageServer(views)
    await server.start()
    try:
        await page.goto(server.url)
        note = page.locator("#optimum-note")
        await expect(note).to_contain_text("of what MIN would have found")
        await server.stop()
        await expect(page.locator("#notice")).to_contain_text("No answer")
        await expect(note).to_contain_text("of what MIN would have found")
        views.server, views.has_prompts = "second", False
        await server.start()
        await expect(page.locator("#notice")).to_contain_text("restarted", timeout=20_000)
        await expect(note).to_have_text("Nothing to compare yet: no prompts were seen.")
        await expect(page.locator("#optimum-table tbody tr")).to_have_count(0)
        views.has_prompts = True
        await expect(note).to_contain_text("of what MIN would have found")
        for chart in ("pool-chart", "optimum-chart"):
            _, *columns = await page.evaluate(f"drawn['{chart}']")
            for column in columns:
                known = [each is not None for each in column]
                gap = known.index(False)
                assert 0 < gap < len(known) - 1 and known[0] and known[-1], (chart, known)
    finally:
        await server.stop()


async def test_what_min_would_have_found_is_told_as_far_as_it_is_known(page: Page) -> None:
    views = Views([team("w", 3)], unsure_blocks=1200)
    async with PageServer(views) as server:
        await page.goto(server.url)
        said = re.compile(r": [0-9.]+% to [0-9.]+% of what MIN would have found")
        await expect(page.locator("#optimum-note")).to_have_text(said)
        found = page.locator("#optimum-table tr", has_text="MIN").locator("td")
        await expect(found).to_have_text(re.compile("^[0-9.]+% to [0-9.]+%$"))
        assert await found.evaluate("(cell) => cell.scrollWidth <= cell.clientWidth"), "cut off"


async def test_a_page_that_nobody_looks_at_asks_for_nothing(page: Page) -> None:
    await page.add_init_script(
        "Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true });"
    )
    hide = "(is) => { isHidden = is; document.dispatchEvent(new Event('visibilitychange')); }"
    views = Views([team("w", 3)])
    async with PageServer(views) as server:
        await page.goto(server.url)
        await expect(page.locator("#agents tbody tr")).to_have_count(3)
        await page.evaluate("window.isHidden = false")
        await page.evaluate(hide, True)
        asked = views.asked
        await page.wait_for_timeout(2500)
        assert views.asked - asked <= 1, "but for the one under way"
        asked = views.asked
        await page.evaluate(hide, False)
        while views.asked == asked:
            await page.wait_for_event("requestfinished")
