"""Aggregation rules over 20 clients of 1e6 float32 values on one thread, against torch.mean over the same values."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from defense.rules.accumulator import make_accumulator
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import WeightedUpdate
from tests.benchmarks.performance.report import show

CLIENTS, VALUES, TENSORS, ATTACKERS = 20, 1_000_000, 20, 4
AIMS = {"fedavg": 2, "median": 9, "trimmed_mean": 9, "krum": 6, "multi_krum": 6, "bulyan": 6, "nnm, fedavg": 6}
"""At most so many times torch.mean."""
OTHERS = ("geometric_median", "centered_clipping", "foolsgold", "dnc")


def measure(*, small: bool) -> dict[str, float]:
    """Rule -> its time over that of torch.mean."""
    torch.set_num_threads(1)
    rows_NV = torch.randn(CLIENTS, VALUES, generator=torch.Generator().manual_seed(0))
    updates = [
        WeightedUpdate(
            client_id=f"c{i:02d}",
            delta={f"t{j:02d}": part for j, part in enumerate(row.split(VALUES // TENSORS))},
            num_samples=10,
            weight=1.0,
        )
        for i, row in enumerate(rows_NV)
    ]
    times = 3 if small else 15
    with threadpool_limits(1):
        mean_s = _seconds(lambda: rows_NV.mean(0), times)
        found = {name: _seconds(lambda name=name: _run(name, updates), times) / mean_s for name in (*AIMS, *OTHERS)}
        mean_s = min(mean_s, _seconds(lambda: rows_NV.mean(0), times))
    show(("rule", "x torch.mean", "aim"), [(name, ratio, AIMS.get(name)) for name, ratio in found.items()])
    return {"torch.mean_s": mean_s, **found}


def _run(name: str, updates: list[WeightedUpdate]) -> None:
    pre, _, rule = name.rpartition(", ")
    accumulator = make_accumulator(AggregationConfig.model_validate({"rule": rule, "pre": pre or "none", "f": _assumed(name)}))
    for update in updates:
        accumulator.add(update)
    accumulator.finish({}, {}, np.random.default_rng(0))


def _assumed(name: str) -> int | None:
    return ATTACKERS if name in ("trimmed_mean", "krum", "multi_krum", "bulyan", "nnm, fedavg", "dnc") else None


def _seconds(call: Callable[[], object], times: int) -> float:
    """Least processor time of some calls: what others do on the machine counts least in it."""
    taken = []
    for _ in range(times):
        started = time.thread_time()
        call()
        taken.append(time.thread_time() - started)
    return min(taken)
