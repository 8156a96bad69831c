"""Ray's metrics as a run uses them: each has the run's name as a label, and gauges last.

In Ray 2.60 the series of a gauge ends when it has not been set for two report intervals, 20 seconds by default. A round may
take longer, so a thread here sets every gauge again and again. To end a series, it leaves that out: Ray has no call for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import TypeVar

from ray.util.metrics import Counter, Gauge, Histogram, Metric

M = TypeVar("M", bound=Metric)
Kinds = tuple[type[Counter], type[Gauge], type[Histogram]]
PREFIX = "safe_fedllm_"
_REPEAT_S = 2.0


class LastingGauge:
    """A gauge each of whose series stays until it is dropped. Safe to use from several threads."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge, self._lock = gauge, threading.Lock()
        self._values: dict[frozenset[tuple[str, str]], float] = {}

    def set(self, value: float, **tags: str) -> None:
        with self._lock:
            self._gauge.set(value, tags=tags)
            self._values[frozenset(tags.items())] = value

    def drop(self, **tags: str) -> None:
        """End the series with these tags, if there is one."""
        with self._lock:
            self._values.pop(frozenset(tags.items()), None)

    def repeat(self) -> None:
        """Set every series to the value that it has."""
        with self._lock:
            for tags, value in self._values.items():
                self._gauge.set(value, tags=dict(tags))


class Instruments:
    """Makes the metrics of one run; until `close`, its gauges last."""

    def __init__(self, run: str, kinds: Kinds = (Counter, Gauge, Histogram), repeat_s: float = _REPEAT_S) -> None:
        """`run`: value of the label `run` of every metric. `repeat_s`: seconds after which gauges are set again."""
        self._run, (self._counters, self._gauges, self._histograms) = run, kinds
        self.lasting: list[LastingGauge] = []
        ended = threading.Event()
        self.close = weakref.finalize(self, ended.set)
        """Let the gauges end; it also happens at the end of the process, before Ray is gone."""
        threading.Thread(target=_repeat, args=(self.lasting, ended, repeat_s), name="lasting-gauges", daemon=True).start()

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """`name` has to end in `_total`: to any other name Prometheus would append it."""
        return self._labelled(self._counters(PREFIX + name, description=text, tag_keys=("run", *labels)))

    def gauge(self, name: str, text: str, *labels: str) -> LastingGauge:
        """A gauge that is exported until it is dropped, or these instruments are closed."""
        gauge = self._labelled(self._gauges(PREFIX + name, description=text, tag_keys=("run", *labels)))
        self.lasting.append(LastingGauge(gauge))
        return self.lasting[-1]

    def histogram(self, name: str, text: str, boundaries: Sequence[float]) -> Histogram:
        """Ray knows the sum of a histogram only to within its buckets; a figure that must add up is a counter or a gauge."""
        histogram = self._histograms(PREFIX + name, description=text, boundaries=list(boundaries), tag_keys=("run",))
        return self._labelled(histogram)

    def _labelled(self, metric: M) -> M:
        metric.set_default_tags({"run": self._run})
        return metric


def _repeat(gauges: Sequence[LastingGauge], ended: threading.Event, every_s: float) -> None:
    while not ended.wait(every_s):
        for gauge in gauges:
            gauge.repeat()
