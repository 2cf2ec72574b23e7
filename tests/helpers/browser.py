"""A real browser for tests of pages: the Chromium that is installed, without a window."""

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="Chromium, or Playwright that drives it, is not installed",
)


@contextmanager
def running_chromium() -> Iterator[Any]:
    """Run a browser as long as the block; yield Playwright's."""
    from playwright.sync_api import sync_playwright

    # its sandbox refuses to run as root, as which tests run in containers
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


_STANDS_STILL = """async (element) => {
    for (let last, frames = 0; frames < 10; frames++) {
        await new Promise(requestAnimationFrame);
        const { top } = element.getBoundingClientRect();
        if (top !== last) frames = 0;
        last = top;
    }
}"""


def click(locator: Any) -> None:
    """Click what may move still: sections of a page take their real height once they are near the view."""
    locator.scroll_into_view_if_needed()
    locator.evaluate(_STANDS_STILL)
    locator.click()


@contextmanager
def opened_page(
    browser: Any,
    url: str,
    *,
    width: int = 1280,
    height: int = 900,
    scheme: str = "light",
    script: bool = True,
    still: bool = False,
) -> Iterator[Any]:
    """Open a page as long as the block; fail if it asks for another address, or has an error on its console."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        java_script_enabled=script,
        reduced_motion="reduce" if still else "no-preference",
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", lambda request: None if _is_own(request.url, url) else complaints.append(f"asks {request.url}"))
    page.goto(url)
    if script:
        page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert complaints == []


def wait_until(page: Any, true: str) -> None:
    """Wait until an expression is true, half a minute at most; the page's policy forbids Playwright's own way."""
    end = time.monotonic() + 30
    while not page.evaluate(true):
        assert time.monotonic() < end, true
        time.sleep(0.02)


def _is_own(asked: str, url: str) -> bool:
    """Whether an address is the page's own, in it, or the one to which the page sends images."""
    return asked == url or asked.startswith("data:") or asked == f"{url}predict"
