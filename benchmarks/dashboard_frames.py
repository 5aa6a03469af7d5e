"""Frames a second of the page at `/kvflow/` in headless Chromium, and its memory over time.

.venv/bin/python -m benchmarks.dashboard_frames --kind lanes --kind graph --laps 3 --json FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from tests.dashboard.browser import FLAGS, find_chromium
from tests.dashboard.page_server import PageServer
from tests.dashboard.views import Views, team

MEASURE = """async (milliseconds) => {
  const gaps = [];
  const long = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) long.push(entry.duration);
  });
  observer.observe({ type: "longtask" });
  await new Promise((done) => {
    const start = performance.now();
    let last = start;
    const tick = (now) => {
      gaps.push(now - last);
      last = now;
      if (now - start < milliseconds) requestAnimationFrame(tick);
      else done();
    };
    requestAnimationFrame(tick);
  });
  observer.disconnect();
  gaps.sort((one, other) => one - other);
  const at = (share) => gaps[Math.min(gaps.length - 1, Math.floor(share * gaps.length))];
  const total = gaps.reduce((sum, each) => sum + each, 0);
  return {
    frames_per_second: (1000 * gaps.length) / total,
    median_ms: at(0.5), p99_ms: at(0.99), longest_ms: at(1),
    frames_over_25_ms: gaps.filter((each) => each > 25).length, frames: gaps.length,
    long_tasks: long.length, longest_task_ms: Math.max(0, ...long),
  };
}"""


async def heap_bytes(page: Page) -> int:
    """What scripts hold after a collection."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    usage = await session.send("Runtime.getHeapUsage")
    return int(usage["usedSize"])


async def measure(
    agents: int, workflows: int, seconds: int, laps: int, kind: str, period_ms: int
) -> AsyncIterator[dict[str, Any]]:
    """The figures of each lap of so many seconds, all of one page."""
    chromium = find_chromium()
    assert chromium is not None, "no Chromium on the PATH"
    views = Views(
        [team("thread-0", agents), *(team(f"thread-{n}", 15) for n in range(1, workflows))]
    )
    async with async_playwright() as playwright, PageServer(views) as server:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        if period_ms != 1000:
            # Time goes faster: each wait of a second is cut to this.
            await page.add_init_script(
                "const later = window.setTimeout;"
                f"window.setTimeout = (task, ms) => later(task, ms === 1000 ? {period_ms} : ms);"
            )
        await page.goto(server.url)
        await page.wait_for_selector("#agents tbody tr")
        await page.locator(f'input[name="kind"][value="{kind}"]').check()
        await page.wait_for_timeout(3000)
        for _ in range(laps):
            asked = views.asked
            result = await page.evaluate(MEASURE, 1000 * seconds)
            result |= {
                "agents": agents,
                "workflows": workflows,
                "kind": kind,
                "load_average": os.getloadavg()[0],
                "views": views.asked - asked,
                "elements": await page.evaluate("document.getElementsByTagName('*').length"),
                "heap_mb": await heap_bytes(page) / 1e6,
            }
            yield {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}
        await browser.close()


async def run(kinds: list[str], file: Path | None, **options: int) -> None:
    """Print a line of JSON for each lap, and write all so far."""
    laps = []
    for kind in kinds:
        async for lap in measure(kind=kind, **options):
            laps.append(lap)
            print(json.dumps(lap), flush=True)
            if file is not None:
                text = json.dumps({**options, "cores": os.cpu_count(), "laps": laps}, indent=1)
                file.write_text(text + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument("--workflows", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--laps", type=int, default=1)
    parser.add_argument("--kind", choices=["lanes", "graph"], action="append")
    parser.add_argument("--period-ms", type=int, default=1000, help="Between two views.")
    parser.add_argument("--json", type=Path, help="Write the figures.")
    options = vars(parser.parse_args())
    kinds, file = options.pop("kind") or ["lanes"], options.pop("json")
    asyncio.run(run(kinds, file, **options))


if __name__ == "__main__":
    main()
