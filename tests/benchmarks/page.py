"""How long a report of 200 clients over 100 rounds takes to open: `python -m tests.benchmarks.page`.

It needs playwright and Chromium. The last line is a JSON object: megabytes, and the seconds until the first
chart is drawn, of each of five openings.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from cluster.report.page import write_page
from tests.unit.cluster.report.run_directories import large_run

_TIMES = 5


def main() -> None:
    """Write the page and open it."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = write_page([large_run(Path(folder) / "run")], Path(folder) / "report.html")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        seconds = [round(_opened(browser, file), 2) for _ in range(_TIMES)]
        browser.close()
        print(json.dumps({"megabytes": round(file.stat().st_size / 1e6, 2), "seconds": seconds}))


def _opened(browser: Browser, file: Path) -> float:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.perf_counter()
    page.goto(file.as_uri())
    page.locator("figure.chart").first.scroll_into_view_if_needed()
    page.locator("figure.chart[data-drawn]").first.wait_for()
    seconds = time.perf_counter() - began
    page.close()
    return seconds


if __name__ == "__main__":
    main()
