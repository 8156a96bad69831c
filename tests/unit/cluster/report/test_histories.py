"""Each client's part in words."""

import pytest
from rich.console import Console

from cluster.report.histories import histories, ranges
from cluster.report.reading import read_run
from tests.unit.cluster.builders import client_round
from tests.unit.cluster.report.run_directories import excluded, four_clients, report, write_run


@pytest.mark.parametrize(("numbers", "text"), [([1, 2, 3, 5], "1 to 3, 5"), ([4], "4"), ([1, 3], "1, 3"), ([], "")])
def test_ranges(numbers, text):
    assert ranges(numbers) == text


def test_those_that_count_least_come_first_with_what_put_them_out(tmp_path):
    first, second, *rest = histories(read_run(write_run(tmp_path / "mine", four_clients())))
    assert (first.client_id, first.attacker, first.counted, first.is_out) == ("client-3", True, 0, True)
    assert (first.main_cause, first.out_since) == ("live", 1)
    assert first.sentences() == [
        "It took part in 3 rounds and counted in 0.",
        "Level live excluded it in rounds 1 to 3. Last: P(malicious) 0.99 is at or above 0.9, half way from the 8 honest "
        "reference clients to the unsafe.",
    ]
    assert (second.client_id, second.counted, second.out_since, second.is_out) == ("client-2", 2, None, False)
    assert "Late in round 1: its update came too late, or not at all. Last: late: no update." in second.sentences()
    assert [item.counted for item in rest] == [3, 3]


def test_a_client_is_out_since_the_round_after_the_last_in_which_it_counted(tmp_path):
    rounds = [report(i, client_round(i, "a", 1.0) if i in (0, 2) else excluded(i, "a")) for i in range(5)]
    (item,) = histories(read_run(write_run(tmp_path / "mine", rounds)))
    assert item.out_since == 4
    assert "Level live excluded it in rounds 2, 4 to 5." in " ".join(item.sentences())


def test_a_client_is_shown_as_text_in_a_terminal_and_a_notebook(tmp_path):
    rows = [excluded(0, "[red]\x1b[31m<b>", excluded_because="<script>\x1b[0m")]
    (item,) = histories(read_run(write_run(tmp_path / "mine", [report(0, *rows)])))
    console = Console(width=300)
    with console.capture() as capture:
        console.print(item)
    assert capture.get().startswith(r"[red]\x1b[31m<b>: It took part in 1 rounds and counted in 0.")
    assert "<strong>[red]\\x1b[31m&lt;b&gt;</strong>" in item._repr_html_()
    assert "&lt;script&gt;\\x1b[0m" in item._repr_html_()
