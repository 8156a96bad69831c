"""Run directories as a run leaves them, from reports that a test makes up."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.messages import ClientRound, EvaluationReport, ProbeRound, RoundReport
from cluster.config.loading import dump_config, load_config
from cluster.state.tables import GROUND_TRUTH, evaluation_table, probe_table, rounds_table
from tests.unit.cluster.builders import client_round, evaluation_report, probe_row

OWN = ("model.path=/models/mine", "data.path=/data/clients", "clients.malicious=0")
"""Real participants: nobody knows who is malicious."""
SIMULATED = ("clients.count=4", "clients.malicious=1")


def excluded(round_index: int, client_id: str, value: float = 0.99, **fields) -> ClientRound:
    """A client that level live excludes."""
    because = f"P(malicious) {value:.3g} is at or above 0.9, half way from the 8 honest reference clients to the unsafe"
    own = {"excluded_by": "live", "excluded_value": value, "excluded_bound": 0.9, "excluded_because": because}
    return replace(client_round(round_index, client_id, 0.0), last_step_probability=value, flagged=True, **{**own, **fields})


def report(round_index: int, *clients: ClientRound, outcome: str = "aggregated") -> RoundReport:
    """A round of these clients, with the bound of level live and what its parts took."""
    return RoundReport(
        round=round_index,
        outcome=outcome,
        why="because",
        adapter_version=round_index + 1,
        mean_weight=0.5,
        clients=tuple(replace(client, round=round_index, round_outcome=outcome) for client in clients),
        bounds={"live": 0.9},
        max_norm=4.0,
        aggregate_s=0.25,
        admit_s=0.25,
        measuring_s={"canary": 0.5},
    )


def four_clients(num_rounds: int = 3) -> list[RoundReport]:
    """client-3 attacks and level live excludes it; client-2 is late in the first round; round 3 is skipped."""
    late = client_round(0, "client-2", 0.0, admitted=False)
    found = []
    for index in range(num_rounds):
        third = late if index == 0 else client_round(index, "client-2", 0.5)
        clients = [client_round(index, "client-0", 1.0), client_round(index, "client-1", 1.0), third, excluded(index, "client-3")]
        found.append(report(index, *clients, outcome="skipped" if index == 2 else "aggregated"))
    return found


def write_run(
    path: Path,
    rounds: Sequence[RoundReport],
    *,
    overrides: Sequence[str] = SIMULATED,
    evaluations: Sequence[EvaluationReport] = (evaluation_report(0, 0.9), evaluation_report(3, 0.85)),
    probe: Sequence[ProbeRound] | None = None,
    attackers: Sequence[str] = ("client-3",),
    summary: bool = True,
) -> Path:
    """Write what a report reads; returns the directory."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dump_config(load_config(None, overrides)))
    pq.write_table(rounds_table(rounds), path / "rounds.parquet")
    pq.write_table(evaluation_table(evaluations), path / "evaluation.parquet")
    if probe is None:
        probe = [probe_row(item.round, round_s=4.0, refresh_wait_s=1.0, score_s=0.5, score_bytes=2_000_000) for item in rounds]
    pq.write_table(probe_table(probe), path / "probe.parquet")
    names = sorted({client.client_id for item in rounds for client in item.clients})
    truth = [{"client_id": name, "malicious": name in attackers} for name in names]
    pq.write_table(pa.Table.from_pylist(truth, schema=GROUND_TRUTH), path / "ground_truth.parquet")
    events = [{"event": "round", **{k: v for k, v in asdict(item).items() if k != "clients"}, "round_s": 4.0} for item in rounds]
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if summary:
        parts = {"scoring": 1.0, "refreshing": 2.0, "canary": 1.0, "validation": 0.0, "preservation": 0.0, "aggregating": 5.0}
        weights = {"mean_weight_benign": 0.9, "mean_weight_malicious": 0.0}
        (path / "summary.json").write_text(json.dumps({"server_seconds": parts, "wall_s": 16.0, **weights}))
    return path


def large_run(path: Path) -> Path:
    """200 clients over 100 rounds, of which 60 attack and are excluded, with three signals beside the probe's."""
    draw, rounds = random.Random(1), []
    for index in range(100):
        rows = [client_round(index, f"client-{i:03}", 1.0) for i in range(140)]
        rows += [excluded(index, f"client-{i:03}", 0.9 + draw.random() / 10) for i in range(140, 200)]
        signals = ("canary_rise", "agreement", "flatness")
        rows = [replace(row, update_norm=draw.random(), signals={name: draw.random() for name in signals}) for row in rows]
        rounds.append(report(index, *rows))
    return write_run(path, rounds, overrides=("clients.count=200", "clients.malicious=60", "rounds=100"))
