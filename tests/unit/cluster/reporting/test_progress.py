"""What a person sees: plain lines in a pipe, bars in a terminal, and nothing that says which clients are malicious."""

import io

import pytest
from rich.console import Console

from cluster.config.loading import load_config
from cluster.reporting.progress import CollectionLines, ProgressBars, ProgressLines, sparkline
from tests.unit.cluster.builders import evaluation_report, probe_row, round_report

PROBE_ROWS = (
    probe_row(0, version=2, refresh="accepted", refresh_why="held-out TPR 1.000"),
    probe_row(1, version=2, refresh="rejected", refresh_why="held-out TPR 0.100"),
    probe_row(2, version=2, warning="the probe may be blind"),
    probe_row(3, version=2),
)


def play(progress):
    progress.starting(load_config(None, ["defense.level=shadow"]))
    progress.round_started(0, ["a", "b"])
    progress.clients_waiting(0, ["c"])
    progress.clients_waiting(1, ["d"])
    progress.clients_waiting(2, [])
    progress.client_done("a")
    progress.client_done("b")
    progress.round_finished(round_report(0, {"a": 1.0, "b": None}, outcome="skipped"))
    for row in PROBE_ROWS:
        progress.probe_judged(row)
    progress.evaluated(evaluation_report(10, 0.25))
    progress.realigned(15, 2.04)
    progress.evaluated(evaluation_report(11, 0.75))
    progress.safety_fell(evaluation_report(4, 0.25), 0.9)
    progress.close()


BOTH = [
    "round 1: 1 clients are pending until there is room for more actors: c",
    "round 3: there is room for every client",
    "round 1: skipped, because",
    "round 1: b late: no update",
    "round 2: the refresh failed, probe version 2 judges by older bounds: held-out TPR 0.100",
    "round 3: warning: the probe may be blind",
    "the server realigned the final adapter: 15 steps, 2.0 s",
    "safety 0.250 is under evaluation.stop_below=0.9 after 4 rounds",
]
LINES_ONLY = [
    "round 1: probe refreshed to version 2, held-out TPR 1.000",
    "after 10 rounds: safety 0.250, utility 0.750, loss 1.500, perplexity 4.482",
    "after realignment: safety 0.750, utility 0.750, loss 1.500, perplexity 4.482",
]
ORDER = [*BOTH[:4], LINES_ONLY[0], *BOTH[4:6], LINES_ONLY[1], BOTH[6], LINES_ONLY[2], BOTH[7]]


def test_a_log_has_a_line_per_event_without_control_codes():
    lines = []
    play(ProgressLines(lines.append, "mine: "))
    texts = [line.split("] mine: ", 1)[1] for line in lines]
    assert "10 clients (3 malicious), 10 rounds x 10 steps, defense shadow" in texts[0]
    assert texts[1:] == ORDER
    assert not any("\x1b" in line for line in lines)


def test_a_terminal_shows_bars_weights_and_safety_and_lines_only_for_what_a_person_should_know():
    stream = io.StringIO()
    play(ProgressBars(Console(file=stream, force_terminal=True, width=160)))
    text = stream.getvalue()
    for part in ("rounds", "1/10", "2/2", "weights █x", "safety 0.750", *BOTH):
        assert part in text
    assert not any(line in text for line in LINES_ONLY)


def test_sparkline_has_a_block_per_client_in_order():
    assert sparkline(round_report(0, {"a": 0.0, "b": 0.5, "c": 1.0, "d": None})) == "▁▅█x"


@pytest.mark.parametrize(("at_start", "shown"), [(10, [12, 16, 20, 24, 28, 32, 36, 40]), (39, [40])])
def test_a_collection_has_about_ten_lines(at_start, shown):
    lines = []
    report = CollectionLines(lines.append)
    for done in range(at_start, 41):
        report(done, 40)
    assert lines[0] == f"{40 - at_start} of 40 reference clients to train"
    texts = [line.split("] ", 1)[1] for line in lines[1:]]
    assert [int(text.split(" of ")[0]) for text in texts] == shown
    assert texts[-1] == "40 of 40 reference clients, 0 s left"
