"""What a person sees: plain lines in a pipe, a live display in a terminal, and nothing that tells who is malicious."""

import io

from rich.console import Console

from cluster.loading import load_config
from cluster.progress import LiveProgress, PlainProgress, sparkline
from tests.unit.cluster.reports import evaluation_report, round_report


def play(progress):
    progress.starting(load_config(None))
    progress.round_started(0, 2)
    progress.client_done("a")
    progress.client_done("b")
    progress.round_finished(round_report(0, {"a": 1.0, "b": None}, outcome="skipped"))
    progress.evaluated(evaluation_report(1, 0.25))
    progress.close()


def test_plain_progress_is_a_line_per_event_without_control_codes():
    lines = []
    play(PlainProgress(lines.append))
    assert [line.split("] ", 1)[1] for line in lines[1:]] == [
        "round 1: skipped, because",
        "round 1: b late",
        "after 1 rounds: safety 0.250, utility 0.750, loss 1.500",
    ]
    assert "10 clients (3 malicious), 10 rounds x 10 steps, defense shadow" in lines[0]
    assert not any("\x1b" in line for line in lines)


def test_live_progress_shows_rounds_clients_weights_and_safety():
    stream = io.StringIO()
    play(LiveProgress(Console(file=stream, force_terminal=True, width=160)))
    text = stream.getvalue()
    for part in ("rounds", "1/10", "2/2", "weights █x", "safety 0.250", "round 1: skipped"):
        assert part in text


def test_sparkline_has_a_block_per_client_in_order():
    assert sparkline(round_report(0, {"a": 0.0, "b": 0.5, "c": 1.0, "d": None})) == "▁▅█x"
