"""A headless browser for the tests that look at pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Playwright browser; the test is skipped where Chromium or Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = next((path for name in _CHROMIUMS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # The sandbox of Chromium refuses to run as root, as containers and CI do.
        launched = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page that fails the test if the page's own scripts raise or log an error."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    yield opened
    opened.close()
    assert not errors, errors
