"""A real browser for tests of pages: Chromium as the system has it, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOW_TO_GET = (
    "tests of pages in a browser were skipped: there is no Chromium. On Debian: "
    "apt-get install chromium; elsewhere GPTBAYES_BROWSER=/path/to/chromium make test"
)
QUIET = (  # a browser that asks its maker for updates is no test of ours
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Opened(NamedTuple):
    """A page, and what it said and asked for while it was open."""

    page: Page
    complaints: list[str]
    requests: list[str]


def executable() -> str | None:
    """Chromium, or None."""
    named = os.environ.get("GPTBAYES_BROWSER")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window."""
    # The sandbox of Chromium does not start for root, which containers often are.
    arguments = [*QUIET, "--no-sandbox"] if os.geteuid() == 0 else list(QUIET)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, **kwargs) -> Iterator[Opened]:
    """A file in a new page that has no network."""
    context = browser.new_context(offline=True, **kwargs)
    page = context.new_page()
    found = Opened(page, [], [])
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(path.resolve().as_uri(), timeout=120_000)
    yield found
    context.close()
