"""A real browser for tests: skipped without playwright and Debian's chromium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install --group browser"
)
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium: apt install chromium", allow_module_level=True)

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_S = 15


@contextmanager
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, url: str, *, may_complain: bool = False, **options: Any) -> Iterator[Any]:
    """A page at `url` in a profile of its own. In the end: no complaint, no request that left the origin."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    requests: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    context.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    elsewhere = [each for each in requests if not each.startswith((url + "/", "data:", "blob:" + url))]
    assert requests
    assert elsewhere == []
    assert may_complain or complaints == []


def wait_until(page: Any, is_so: Callable[[], bool]) -> None:
    """The page's security policy forbids playwright's own waiting for an expression."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        page.wait_for_timeout(10)


def say(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def wait_for_end(page: Any) -> None:
    """Until the last answer is complete."""
    page.wait_for_selector("#send:visible")
    page.wait_for_selector(".message.assistant:last-child footer:visible")


def texts(page: Any) -> list[str]:
    """What each message says."""
    found: list[str] = page.locator(".message > .text").all_inner_texts()
    return found
