"""A browser, and a page that complains of errors and of requests to elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from tests.dashboard.browser import FLAGS, find_chromium

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfinished", lambda request: _note_foreign(request.url, problems))
    yield page
    assert problems == []


def _note_foreign(url: str, problems: list[str]) -> None:
    if not url.startswith("http://127.0.0.1:"):
        problems.append(f"asked for {url}")
