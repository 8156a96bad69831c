"""The served page in a real Chromium: it loads itself again, what was open stays open, and it says when the server is gone."""

import shutil
import threading

import pytest

from cluster.reporting.event_log import EventLog
from cluster.watching.following import Followed
from cluster.watching.server import PageServer
from tests.unit.cluster.report.run_directories import four_clients, write_run
from tests.unit.cluster.report.test_page import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; Debian: apt-get install chromium")


@pytest.fixture
def page():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context().new_page()
        browser.close()


def test_it_follows_the_run_with_what_was_open_and_says_when_the_server_is_gone(page, tmp_path):
    path, errors = write_run(tmp_path / "mine", four_clients(2), summary=False), []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    with PageServer(Followed(path)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            page.goto(server.url)
            opened = page.locator("details.client[data-client='client-3']")
            log = EventLog(path / "events.jsonl", "mine")
            log.members_changed(["client-0", HOSTILE[0]])
            log.state_changed("running")
            log.round_started(2, ["client-0", HOSTILE[0]])
            log.client_done("client-0")
            page.get_by_text(f"delivered 1 of 2 clients; training {HOSTILE[0]}").wait_for()
            opened.locator("summary").first.click()
            opened.locator("tbody tr").nth(1).wait_for()
            assert opened.locator("tbody tr").count() == 2
            shutil.rmtree(path)
            write_run(path, four_clients(3))
            opened.locator("tbody tr").nth(2).wait_for()
            assert "3 of" in page.locator(".about").inner_text()
            assert page.locator("details.client[open]").count() == 1
            assert errors == []
        finally:
            server.shutdown()
            thread.join()
    page.get_by_text("has ended or does not answer").wait_for()
