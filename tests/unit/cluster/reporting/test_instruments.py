"""Gauges that last until they are dropped, and the labels and names of metrics."""

import gc
import threading

from cluster.reporting.instruments import Instruments
from tests.chaos import wait_until
from tests.unit.cluster.builders import Record


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "lasting-gauges" and thread.is_alive()}


def test_a_gauge_is_set_again_until_it_is_dropped():
    record = Record()
    instruments = record.instruments()
    gauge = instruments.gauge("weight", "Weight", "client")
    gauge.set(0.5, client="a")
    gauge.set(0.25, client="b")
    gauge.set(0.75, client="b")
    gauge.drop(client="a")
    gauge.drop(client="unknown")
    record.values.clear()
    gauge.repeat()
    assert record.values == {("weight", "b"): [0.75]}


def test_a_thread_sets_gauges_again_until_it_is_closed():
    record, before = Record(), threads()
    instruments = record.instruments(repeat_s=0.01)
    instruments.gauge("round", "Rounds done").set(1)
    wait_until(lambda: len(record.values[("round",)]) >= 3, 20, "setting the gauge again")
    instruments.close()
    wait_until(lambda: not threads() - before, 20, "the end of the thread")


def test_instruments_without_a_reference_leave_no_thread():
    before = threads()
    instruments = Record().instruments()
    assert threads() - before
    del instruments
    gc.collect()
    wait_until(lambda: not threads() - before, 20, "the end of the thread")


def test_every_metric_carries_the_runs_name():
    instruments = Instruments("mine")
    made = [instruments.counter("x_total", "X", "reason"), instruments.histogram("x_seconds", "X", [1.0])]
    assert [metric.info["default_tags"] for metric in made] == [{"run": "mine"}] * 2
    assert [metric.info["name"] for metric in made] == ["safe_fedllm_x_total", "safe_fedllm_x_seconds"]
    assert made[0].info["tag_keys"] == ("run", "reason")
    instruments.close()
