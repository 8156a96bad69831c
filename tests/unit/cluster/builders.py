"""Reports with few clients, and metrics that remember their values, for tests of tables, summaries, pictures and callbacks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ray.util.metrics import Counter, Gauge, Histogram

from actors.messages import ClientRound, EvaluationReport, ProbeRound, Proportion, RoundReport
from cluster.reporting.instruments import PREFIX, Instruments
from cluster.state.checkpoints import Checkpoints
from cluster.state.history import History
from cluster.state.place import Place
from cluster.state.run_state import RunState, decode_state, encode_state


def client_round(
    round_index: int, client_id: str, weight: float, *, admitted: bool = True, outcome: str = "aggregated"
) -> ClientRound:
    return ClientRound(
        round=round_index,
        client_id=client_id,
        admitted=admitted,
        reason=None if admitted else "late: no update",
        num_samples=16 if admitted else 0,
        num_steps_scored=1,
        malicious_ratio=1 - weight if admitted else None,
        last_step_probability=0.5,
        flagged=weight < 0.5 if admitted else None,
        weight=weight,
        share=0.5,
        update_norm=1.0,
        loss=2.0,
        train_s=0.1,
        probe_version=1,
        round_outcome=outcome,
        num_bytes=1000 if admitted else 0,
    )


def round_report(round_index: int, weights: dict[str, float | None], outcome: str = "aggregated") -> RoundReport:
    """`weights`: client id -> weight, None for a client that was not admitted."""
    clients = tuple(
        client_round(round_index, name, weight or 0.0, admitted=weight is not None, outcome=outcome)
        for name, weight in weights.items()
    )
    return RoundReport(round=round_index, outcome=outcome, why="because", adapter_version=1, mean_weight=0.5, clients=clients)


def probe_row(round_index: int, **fields) -> ProbeRound:
    """A round without drift or refresh, unless `fields` say otherwise."""
    quiet = {"version": 1, "num_scores": 4, "drift_distance": 0.1, "drift_critical": 0.8, "blind": False, "warning": None}
    return ProbeRound(round=round_index, **{**quiet, "round_s": 1.0, **fields})


def evaluation_report(rounds_done: int, rule_score: float) -> EvaluationReport:
    share = Proportion(value=rule_score, low=rule_score - 0.1, high=rule_score + 0.1, count=100)
    return EvaluationReport(
        rounds_done=rounds_done,
        adapter_version=rounds_done,
        rule_score=share,
        compliance=None,
        over_refusal=share,
        utility=0.75,
        utility_by_family={"a": share},
        benign_loss=1.5,
        seconds=0.1,
    )


class Record:
    """Ray's own metrics, which also remember their values; Ray need not run.

    `record["rounds_total", "skipped"]` is the value with these labels: of a counter the sum, of a gauge the last value, of a
    histogram all values.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, type] = {}
        """Name without the prefix -> Counter, Gauge or Histogram."""
        self.values: dict[tuple[str, ...], list[float]] = defaultdict(list)
        """(name, values of the labels) -> every value, oldest first."""

    def __getitem__(self, key: str | tuple[str, ...]) -> float | list[float]:
        name, *labels = (key,) if isinstance(key, str) else key
        values, kind = self.values[name, *labels], self.kinds[name]
        return sum(values) if kind is Counter else values[-1] if kind is Gauge else list(values)

    def series(self, name: str) -> set[tuple[str, ...]]:
        """Labels of every series that was set since `values` was last cleared."""
        return {tuple(labels) for found, *labels in self.values if found == name}

    def instruments(self, run: str = "mine", repeat_s: float = 3600.0) -> Instruments:
        kinds = self._recorded(Counter, "inc"), self._recorded(Gauge, "set"), self._recorded(Histogram, "observe")
        return Instruments(run, kinds, repeat_s)

    def _recorded(self, kind: type, method: str) -> type:
        def construct(metric, name, **options):
            kind.__init__(metric, name, **options)
            self.kinds[name.removeprefix(PREFIX)] = kind

        def record(metric, value=1.0, tags=None):
            getattr(kind, method)(metric, value, tags)
            self.values[metric.info["name"].removeprefix(PREFIX), *(tags or {}).values()].append(value)

        return type(kind.__name__, (kind,), {"__init__": construct, method: record})


def back_from_disk(state: RunState, folder: Path) -> RunState:
    """A state as it comes back from its files in a folder."""
    written, read = (History(Place(str(folder))) for _ in range(2))
    return decode_state(encode_state(state, written.write(state.reports)), read)


def state_in(folder: Path, rounds_done: int | None = None) -> RunState:
    """The state in a folder of checkpoints, by default the newest."""
    checkpoints = Checkpoints(str(folder), keep=9)
    found = checkpoints.load(rounds_done)
    assert found
    return decode_state(found[1], checkpoints.history)
