"""The page in a real Chromium: every chart drawn, no error, no horizontal scrolling, quick, and nothing hostile runs."""

import shutil
from dataclasses import replace

import pytest

from cluster.report.page import write_page
from cluster.report.run_result import RunResult
from tests.unit.cluster.builders import client_round
from tests.unit.cluster.report.run_directories import OWN, excluded, four_clients, large_run, report, write_run
from tests.unit.cluster.report.test_page import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; Debian: apt-get install chromium")
NOT_DRAWN = "figure.chart:not([data-drawn])"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page with everything drawn, and what went wrong in it."""

    def __init__(self, browser, file, width=1280, scheme="light"):
        self.page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True).new_page()
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.goto(file.as_uri())
        self.page.locator("figure.chart").first.scroll_into_view_if_needed()
        self.page.locator("figure.chart[data-drawn]").first.wait_for()
        for figure in self.page.locator("figure.chart").all():
            figure.scroll_into_view_if_needed()
        self.page.locator(NOT_DRAWN).first.wait_for(state="detached")

    @property
    def overflow(self):
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    one = write_run(folder / "one", four_clients())
    real = write_run(folder / "real", four_clients(), overrides=OWN, attackers=[])
    rows = [replace(client_round(0, name, 0.0, admitted=False), reason=f"malformed: {name}") for name in HOSTILE[1:]]
    hostile = write_run(folder / "hostile", [report(0, excluded(0, HOSTILE[0]), *rows)], overrides=OWN, attackers=[])
    places = {"one": [one], "real": [real], "side by side": [one, real], "hostile": [hostile]}
    return {name: write_page(runs, folder / f"{name}.html") for name, runs in places.items()}


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.parametrize("name", ["one", "real", "side by side", "hostile"])
def test_every_chart_is_drawn_without_an_error_or_horizontal_scrolling(browser, pages, name, width, scheme):
    opened = Opened(browser, pages[name], width, scheme)
    assert opened.page.locator("figure.chart").count() >= 5
    assert opened.page.locator("figure.chart canvas").count() >= opened.page.locator("figure.chart").count()
    opened.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    opened.page.locator("figure.chart details table tbody tr").first.wait_for()
    assert (opened.errors, opened.overflow) == ([], 0)


def test_a_drawn_chart_has_more_than_its_background(browser, pages):
    opened = Opened(browser, pages["one"])
    pixels = 'canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer'
    colours = f"canvas => new Set(new Uint32Array({pixels})).size"
    for figure in opened.page.locator("figure.chart").all():
        assert max(canvas.evaluate(colours) for canvas in figure.locator("canvas").all()) > 10


def test_a_chart_says_in_words_what_it_shows(browser, pages):
    plot = Opened(browser, pages["one"]).page.locator("#weights .plot")
    assert plot.get_attribute("aria-label") == (
        "Weight of every client by round: 4 clients over 3 rounds: of 12 client-rounds 5 counted, 3 excluded, 1 late, "
        "3 not aggregated."
    )


def test_a_client_shows_each_of_its_rounds(browser, pages):
    page = Opened(browser, pages["one"]).page
    client = page.locator("details.client").first
    client.locator("summary").click()
    client.locator("tbody tr").first.wait_for()
    rows = client.locator("tbody tr").all()
    assert len(rows) == 3
    assert "level live: P(malicious) 0.99 is at or above 0.9" in rows[0].inner_text()
    norm = client.locator("figure.chart").last
    norm.scroll_into_view_if_needed()
    client.locator("figure.chart[data-drawn]").first.wait_for()
    assert norm.locator(".plot").get_attribute("aria-label").startswith("Norm of the update of client-3")


def test_hostile_names_are_shown_as_text(browser, pages):
    opened = Opened(browser, pages["hostile"])
    text = opened.page.locator("body").inner_text()
    assert HOSTILE[0] in text
    assert HOSTILE[3] in text
    assert "\\x1b[31mred" in text
    assert opened.errors == []


def test_a_notebook_shows_hostile_names_as_text_and_draws_each_figure_in_its_frame(browser, pages, tmp_path):
    result = RunResult(pages["hostile"].parent / "hostile", {})
    shown = [result, *result.clients.values(), result.figures["weights"], result.figures["signal-update-norm"]]
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{''.join(item._repr_html_() for item in shown)}</body>")
    errors, page = [], browser.new_context(offline=True).new_page()
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
    page.goto(notebook.as_uri())
    for i, name in enumerate(["weights", "signal-update-norm"]):
        page.locator("iframe").nth(i).scroll_into_view_if_needed()
        page.frame_locator("iframe").nth(i).locator(f"#{name}[data-drawn] canvas").first.wait_for()
    text = page.locator("body").inner_text()
    assert all(name in text for name in (HOSTILE[0], HOSTILE[3], HOSTILE[4], "\\x1b[31mred", "… (10000 characters)"))
    assert "\x1b" not in page.content()
    assert errors == []


def test_charts_are_drawn_anew_for_the_printer(browser, pages):
    opened = Opened(browser, pages["one"], scheme="dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("figure.chart svg").count() == opened.page.locator("figure.chart").count()
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("figure.chart svg").count() == 0
    assert opened.errors == []


def test_a_page_of_200_clients_over_100_rounds_takes_8_mb_and_opens(browser, tmp_path):
    file = write_page([large_run(tmp_path / "large")], tmp_path / "large.html")
    assert file.stat().st_size < 8_000_000
    opened = Opened(browser, file)
    assert (opened.errors, opened.overflow) == ([], 0)
