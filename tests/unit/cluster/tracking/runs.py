"""A run of two rounds as its listener hears of it."""

from cluster.config.loading import load_config
from cluster.tracking.tracker import Listener, TrackedRun, Tracker
from tests.unit.cluster.builders import evaluation_report, probe_row, round_report


def listen(tracker: Tracker, run: TrackedRun, *, to_the_end: bool = True) -> None:
    """The evaluation of the initial adapter comes late, as it does in a run; a failure of the tracker fails the test."""

    def fail(why: str) -> None:
        raise AssertionError(why)

    listener = Listener("mine", tracker, fail)
    listener.starting(load_config(None, ["rounds=2", "checkpoint.path=s3://bucket"]))
    listener.round_finished(round_report(0, {"a": 1.0, "b": 0.0}))
    listener.evaluated(evaluation_report(0, 0.9))
    listener.probe_judged(probe_row(0))
    listener.round_finished(round_report(1, {"a": 1.0}))
    if to_the_end:
        listener.evaluated(evaluation_report(2, 0.8))
        listener.finished(run.path)
    listener.close()
