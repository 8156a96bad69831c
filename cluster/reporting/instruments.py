"""Ray's metrics as a run uses them: each with the run's name as a label, and gauges that last.

Ray (2.60) exports what a gauge was set to once; the series ends when nobody sets it again for two report intervals, 20
seconds by default. A round may take longer, so here a thread sets every gauge again and again. A series that should end is
dropped, and Ray lets it go by itself: it has no call to remove one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram, Metric

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

    def __init__(
        self,
        run: str,
        *,
        counters: type[Counter] = Counter,
        gauges: type[Gauge] = Gauge,
        histograms: type[Histogram] = Histogram,
        repeat_s: float = _REPEAT_S,
    ) -> None:
        """`run`: value of the label `run` of every metric. `repeat_s`: seconds after which gauges are set again."""
        self._run, self._counters, self._gauges, self._histograms = run, counters, gauges, histograms
        self._lasting: list[LastingGauge] = []
        self._ended = threading.Event()
        weakref.finalize(self, self._ended.set)  # also at the end of the process, before Ray is gone
        arguments = (weakref.ref(self), self._ended, repeat_s)
        threading.Thread(target=_repeat, args=arguments, name="lasting-gauges", daemon=True).start()

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """`name` has to end in `_total`; otherwise Prometheus would be shown it with that appended."""
        return self._labelled(self._counters, name, text, labels)

    def gauge(self, name: str, text: str, *labels: str) -> LastingGauge:
        """Shown until it is dropped, or these instruments are closed."""
        self._lasting.append(LastingGauge(self._labelled(self._gauges, name, text, labels)))
        return self._lasting[-1]

    def histogram(self, name: str, text: str, boundaries: Sequence[float]) -> Histogram:
        """Ray knows the sum of a histogram only to within its buckets; what must add up is a counter or a gauge."""
        return self._labelled(self._histograms, name, text, (), boundaries=list(boundaries))

    def repeat(self) -> None:
        """Set every gauge to the values it has."""
        for gauge in self._lasting:
            gauge.repeat()

    def close(self) -> None:
        """Let the gauges end."""
        self._ended.set()

    def _labelled(self, kind: type[Metric], name: str, text: str, labels: Sequence[str], **options: Any) -> Any:
        metric = kind(PREFIX + name, description=text, tag_keys=("run", *labels), **options)
        return metric.set_default_tags({"run": self._run})


def _repeat(instruments: weakref.ref[Instruments], ended: threading.Event, every_s: float) -> None:
    while not ended.wait(every_s):
        alive = instruments()
        if alive is None:
            return
        alive.repeat()
        del alive
