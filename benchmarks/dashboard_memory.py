"""Memory of the page at `/kvflow/` through a day's 86,400 views, each drawn, in headless Chromium.

.venv/bin/python -m benchmarks.dashboard_memory --json FILE

On the server that it asks, a workflow ends and another begins from each view to the next. The
second between two views is left out. A debugger is there while the page opens and at each reading,
and not between: one that stays keeps more. Nothing is collected by hand before the last reading.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, Playwright, async_playwright

from kvflow_sglang.server_process import free_port
from tests.dashboard.browser import FLAGS, find_chromium
from tests.dashboard.page_server import PageServer
from tests.dashboard.views import Comings, team

A_DAY = 86_400
LOOK_S = 0.2
# A frame is drawn as soon as it is asked for, and shown when the browser comes to it. What would
# wait for a second waits for the frames that are still to be drawn.
FASTER = """
const later = window.setTimeout;
const frames = [];
const { port1, port2 } = new MessageChannel();
port1.onmessage = () => frames.shift()(performance.now());
window.requestAnimationFrame = (draw) => {
  port2.postMessage(null);
  return frames.push(draw);
};
window.setTimeout = (task, ms) => {
  if (ms !== 1000) return later(task, ms);
  const go = () => (frames.length ? later(go, 0) : task());
  return later(go, 0);
};
"""


@contextlib.asynccontextmanager
async def chromium(port: int) -> AsyncIterator[None]:
    """A headless browser that listens for debuggers, and has none."""
    found = find_chromium()
    assert found is not None, "no Chromium on the PATH"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(found, "--headless=new", *FLAGS, f"--remote-debugging-port={port}"),
            *(f"--user-data-dir={folder}", "--window-size=1440,900", "about:blank"),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        while b"DevTools listening" not in (line := await process.stderr.readline()):
            assert line, "Chromium has ended"
        rest = asyncio.create_task(process.stderr.read())
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
            await rest


@contextlib.asynccontextmanager
async def debugger(playwright: Playwright, port: int) -> AsyncIterator[tuple[Browser, Page]]:
    """A debugger of the browser's only page, for a moment."""
    browser = await playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
    try:
        yield browser, browser.contexts[0].pages[0]
    finally:
        await browser.close()


async def renderer_of(browser: Browser) -> int:
    """The id of the process that draws the page: of several, the one that has worked most."""
    session = await browser.new_browser_cdp_session()
    found = await session.send("SystemInfo.getProcessInfo")
    renderers = [each for each in found["processInfo"] if each["type"] == "renderer"]
    return int(max(renderers, key=lambda each: each["cpuTime"])["id"])


def resident_mb(pid: int) -> dict[str, float]:
    """What a process has in memory, and what of it is in no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return {
        "resident_mb": int(sizes["VmRSS"].split()[0]) / 1000,
        "anonymous_mb": int(sizes["RssAnon"].split()[0]) / 1000,
    }


async def reading(playwright: Playwright, port: int, *, collects: bool) -> dict[str, Any]:
    """What the page's process, its scripts and its document hold."""
    async with debugger(playwright, port) as (browser, page):
        session = await page.context.new_cdp_session(page)
        if collects:
            await session.send("HeapProfiler.collectGarbage")
        held = resident_mb(await renderer_of(browser))
        heap = await session.send("Runtime.getHeapUsage")
        document = await session.send("Memory.getDOMCounters")
        elements = await page.evaluate("document.querySelectorAll('*').length")
    return {
        **held,
        "heap_used_mb": heap["usedSize"] / 1e6,
        "heap_mb": heap["totalSize"] / 1e6,
        "nodes": document["nodes"],
        "listeners": document["jsEventListeners"],
        "elements": elements,
    }


async def measure(agents: int, most_views: int, count: int) -> AsyncIterator[dict[str, Any]]:
    """So many readings at even distances, and one more after a collection."""
    views = Comings([team("w", agents)])
    port = free_port()
    started_s = time.monotonic()
    async with async_playwright() as playwright, PageServer(views) as server, chromium(port):
        async with debugger(playwright, port) as (_, page):
            await page.add_init_script(FASTER)
            await page.goto(server.url)
            await page.wait_for_selector("#agents tbody tr")
        for number in range(1, count + 1):
            while views.asked < number * most_views // count:
                await asyncio.sleep(LOOK_S)
            at = {"views": views.asked, "s": time.monotonic() - started_s}
            yield at | await reading(playwright, port, collects=False)
        at = {"views": views.asked, "s": time.monotonic() - started_s, "collected": True}
        yield at | await reading(playwright, port, collects=True)


async def run(agents: int, most_views: int, count: int, file: Path | None) -> None:
    """Print each reading, and write all so far."""
    found = []
    async for each in measure(agents, most_views, count):
        found.append({k: round(v, 2) if isinstance(v, float) else v for k, v in each.items()})
        print(json.dumps(found[-1]), flush=True)
        if file is not None:
            text = json.dumps({"agents": agents, "readings": found}, indent=1)
            file.write_text(text + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=12)
    parser.add_argument("--views", type=int, default=A_DAY)
    parser.add_argument("--readings", type=int, default=24)
    parser.add_argument("--json", type=Path, help="Write the figures.")
    args = parser.parse_args()
    asyncio.run(run(args.agents, args.views, args.readings, args.json))


if __name__ == "__main__":
    main()
