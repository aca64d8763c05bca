"""A page as PDF, printed by Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 300
"""After which a browser that has not printed a page is stopped."""


def browser_of() -> str:
    """Find a Chromium: that of ``GPTBAYES_BROWSER``, or one on the path.

    Returns
    -------
    str

    Raises
    ------
    RuntimeError
        If there is none.
    """
    named = os.environ.get("GPTBAYES_BROWSER")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise RuntimeError(
            "a PDF is printed by Chromium, and there is none; on Debian: apt-get install chromium; "
            "elsewhere set GPTBAYES_BROWSER=/path/to/chromium, or print report.html"
        )
    return found


def pdf(html: str) -> bytes:
    """Print a page.

    Parameters
    ----------
    html : str

    Returns
    -------
    bytes
        PDF.

    Raises
    ------
    RuntimeError
        If there is no Chromium, or it does not print the page.
    """
    browser = browser_of()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target = folder / "page.html", folder / "page.pdf"
        source.write_text(html, encoding="utf-8")
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--no-pdf-header-footer",
            f"--user-data-dir={folder / 'profile'}",
            f"--print-to-pdf={target}",
            source.as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # its sandbox does not start for root
            command.insert(1, "--no-sandbox")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{browser} did not print the report: {error}") from None
        if not target.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{browser} did not print the report: {last}")
        return target.read_bytes()
