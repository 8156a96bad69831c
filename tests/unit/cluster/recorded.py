"""Ray's own metrics, which also remember what they were told; Ray needs not be running."""

from __future__ import annotations

from collections import defaultdict

from ray.util.metrics import Counter, Gauge, Histogram

from cluster.reporting.instruments import PREFIX, Instruments


class Record:
    """What one set of instruments was told: `record["rounds_total", "skipped"]` is the value with these labels."""

    def __init__(self) -> None:
        self.made: dict[str, type] = {}
        """Name without the prefix -> Counter, Gauge or Histogram."""
        self.told: dict[tuple[str, ...], list[float]] = defaultdict(list)
        """(name, values of the labels) -> every value, oldest first."""

    def __getitem__(self, key: str | tuple[str, ...]) -> float | list[float]:
        name, *labels = (key,) if isinstance(key, str) else key
        values = self.told[name, *labels]
        kind = self.made[name]
        return sum(values) if kind is Counter else values[-1] if kind is Gauge else list(values)

    def series(self, name: str) -> set[tuple[str, ...]]:
        """Labels of every series that was told since `told` was last cleared."""
        return {labels for found, *labels in self.told if found == name for labels in [tuple(labels)]}

    def instruments(self, run: str = "mine", repeat_s: float = 3600.0) -> Instruments:
        record = self

        def remember(metric, value, tags) -> None:
            record.told[metric.info["name"].removeprefix(PREFIX), *(tags or {}).values()].append(value)

        def made(metric, kind) -> None:
            record.made[metric.info["name"].removeprefix(PREFIX)] = kind

        class RecordedCounter(Counter):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                made(self, Counter)

            def inc(self, value=1.0, tags=None):
                super().inc(value, tags)
                remember(self, value, tags)

        class RecordedGauge(Gauge):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                made(self, Gauge)

            def set(self, value, tags=None):
                super().set(value, tags)
                remember(self, value, tags)

        class RecordedHistogram(Histogram):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                made(self, Histogram)

            def observe(self, value, tags=None):
                super().observe(value, tags)
                remember(self, value, tags)

        kinds = {"counters": RecordedCounter, "gauges": RecordedGauge, "histograms": RecordedHistogram}
        return Instruments(run, **kinds, repeat_s=repeat_s)
