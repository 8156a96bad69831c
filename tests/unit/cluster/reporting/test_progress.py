"""What a person sees: plain lines in a pipe, a live display in a terminal, and nothing that tells who is malicious."""

import io

from rich.console import Console

from cluster.config.loading import load_config
from cluster.reporting.progress import CollectionLines, LiveProgress, PlainProgress, sparkline
from tests.unit.cluster.reports import evaluation_report, probe_row, round_report


def play(progress):
    progress.starting(load_config(None, ["defense.level=shadow"]))
    progress.round_started(0, ["a", "b"])
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


NEWS = (
    probe_row(0, version=2, refresh="accepted", refresh_why="held-out TPR 1.000"),
    probe_row(1, version=2, refresh="rejected", refresh_why="held-out TPR 0.100"),
    probe_row(2, version=2, warning="the probe may be blind"),
    probe_row(3, version=2),
)


def test_a_log_tells_every_refresh_and_every_drift():
    lines = []
    progress = PlainProgress(lines.append)
    for row in NEWS:
        progress.probe_judged(row)
    assert [line.split("] ", 1)[1] for line in lines] == [
        "round 1: probe refreshed to version 2, held-out TPR 1.000",
        "round 2: the refreshed probe was rejected, version 2 stays: held-out TPR 0.100",
        "round 3: warning: the probe may be blind",
    ]


def test_a_terminal_is_told_only_what_went_wrong():
    stream = io.StringIO()
    progress = LiveProgress(Console(file=stream, force_terminal=True, width=160))
    for row in NEWS:
        progress.probe_judged(row)
    text = stream.getvalue()
    assert "refreshed to" not in text
    assert "was rejected" in text
    assert "may be blind" in text


def test_a_collection_tells_about_ten_times_how_far_it_is():
    lines = []
    report = CollectionLines(lines.append)
    for done in range(10, 41):
        report(done, 40)
    assert lines[0] == "30 of 40 reference clients to train"
    texts = [line.split("] ", 1)[1] for line in lines[1:]]
    assert [int(text.split(" of ")[0]) for text in texts] == [12, 16, 20, 24, 28, 32, 36, 40]
    assert texts[-1] == "40 of 40 reference clients, 0 s left"


def test_a_realignment_is_told_and_so_is_what_it_changed():
    lines = []
    progress = PlainProgress(lines.append)
    progress.starting(load_config(None, ["rounds=2"]))
    progress.evaluated(evaluation_report(2, 0.25))
    progress.realigned(15, 2.04)
    progress.evaluated(evaluation_report(3, 0.75))
    assert [line.split("] ", 1)[1].split(",")[0] for line in lines[1:]] == [
        "after 2 rounds: safety 0.250",
        "the server realigned the final adapter: 15 steps",
        "after realignment: safety 0.750",
    ]


def test_a_fall_under_the_bound_is_told_in_a_pipe_and_in_a_terminal():
    lines, stream = [], io.StringIO()
    for progress in (PlainProgress(lines.append), LiveProgress(Console(file=stream, force_terminal=True, width=160))):
        progress.safety_fell(evaluation_report(4, 0.25), 0.9)
    news = "safety 0.250 is under evaluation.stop_below=0.9 after 4 rounds"
    assert lines[0].endswith(news)
    assert news in stream.getvalue()
