"""Text is printed as it is: no markup, no emoji codes, no control characters."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table

from cluster.reporting.console import PlainConsole, plain
from cluster.reporting.progress import ProgressBars
from cluster.reporting.status import first_status, status_table
from tests.unit.cluster.builders import round_report

HOSTILE = ("[/x]", "[live, canary]", "[red]x[/red]", ":smile:", "\x1b[31mx", "a\x07b\rc", "\u202egnp.exe", "\udcff", "\x9b31m")


def printed(*parts, terminal: bool = False) -> str:
    console = PlainConsole(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    console.print(*parts)
    return console.file.getvalue()


@given(st.text(st.characters(codec=None)))
def test_plain_text_holds_nothing_that_a_terminal_obeys_or_cannot_show(text):
    shown = plain(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    shown.encode()
    assert plain(shown) == shown


def test_printable_text_stays():
    assert plain("Zoë 日本 [x] ▁█\n\tb") == "Zoë 日本 [x] ▁█\n\tb"
    assert [plain(text) for text in HOSTILE[4:]] == [
        "\\x1b[31mx",
        "a\\x07b\\rc",
        "\\u202egnp.exe",
        "\\udcff",
        "\\x9b31m",
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_console_shows_text_as_it_is_in_lines_and_tables(text):
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    assert plain(text) in printed(text)
    assert printed(table).count(plain(text)) == 4


@pytest.mark.parametrize("text", HOSTILE)
def test_a_status_shows_orders_and_names_as_they_are(text):
    status = {**first_status("mine", f"/runs/{text}"), "orders": [("set", f"defense.level={text}")], "clients": {text: "lost"}}
    shown = printed(status_table(status))
    assert f"set defense.level={plain(text)}" in shown
    assert f"/runs/{plain(text)}" in shown
    assert re.search(rf"lost +│ {re.escape(plain(text))} ", shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_bars_show_labels_and_orders_as_they_are(text):
    console = PlainConsole(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    bars = ProgressBars(console, f"{text}: ")
    bars.order_refused(text)
    bars.round_finished(round_report(0, {"a": 1.0}))
    bars._bars.start()
    bars.close()
    assert f"order refused: {plain(text)}" in console.file.getvalue()
    assert f"{plain(text)}: rounds" in console.file.getvalue()


def test_a_column_with_markup_would_be_seen():
    console = PlainConsole(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with Progress(TextColumn("{task.description}"), console=console) as bars:
        bars.add_task("[red]x[/red]")
    assert "[red]" not in console.file.getvalue()
