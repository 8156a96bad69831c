"""What a run has committed: everything it needs to go on from a round, as one value and as the files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from actors.messages import AggregatorState, EvaluationReport, ProbeRound, RoundReport
from cluster.roster import Roster
from defense.config import DefenseConfig

_ADAPTER, _STATE = "adapter.safetensors", "state.json"
_RULE, _OPTIMIZER = "rule.safetensors", "optimizer.safetensors"
_PROBE, _PENDING = "probe/", "evaluation-"
_REPORTS = {
    "rounds": TypeAdapter(tuple[RoundReport, ...]),
    "probe_rounds": TypeAdapter(tuple[ProbeRound, ...]),
    "evaluations": TypeAdapter(tuple[EvaluationReport, ...]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEvaluation:
    """An evaluation that is not done yet, with the adapter it measures."""

    adapter_version: int
    adapter: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An order that was carried out before a round."""

    round: int
    """Counts from 0."""
    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run between two rounds. Random streams need no entry: they follow from seed, client and round."""

    rounds_done: int = 0
    aggregator: AggregatorState
    roster: Roster
    probe: Mapping[str, bytes] = field(default_factory=dict)
    """The probe in force as artefact files; empty at a level without one."""
    rounds: tuple[RoundReport, ...] = ()
    probe_rounds: tuple[ProbeRound, ...] = ()
    evaluations: tuple[EvaluationReport, ...] = ()
    pending: Mapping[int, PendingEvaluation] = field(default_factory=dict)
    """Rounds done -> evaluation under way; it is run again on resume."""
    changes: tuple[Change, ...] = ()
    """Orders carried out while the run was live, oldest first."""
    elapsed_s: float = 0.0
    """Seconds of work so far, resumed runs included."""


def encode_state(state: RunState) -> dict[str, bytes]:
    """File name -> content."""
    plain: dict[str, Any] = {
        "rounds_done": state.rounds_done,
        "adapter_version": state.aggregator.version,
        "trust": dict(state.aggregator.trust),
        "defense": state.aggregator.defense.model_dump(mode="json"),
        "clients": {client_id: list(files) for client_id, files in state.roster.known.items()},
        "active": list(state.roster.active),
        "changes": [asdict(change) for change in state.changes],
        "elapsed_s": state.elapsed_s,
        "pending": {str(done): item.adapter_version for done, item in state.pending.items()},
        **{name: [asdict(report) for report in getattr(state, name)] for name in _REPORTS},
    }
    for report in plain["rounds"]:
        report["clients"] = list(report["clients"])
    return {
        _ADAPTER: state.aggregator.adapter,
        _STATE: json.dumps(plain, default=dict).encode(),
        **{name: content for name, content in _memories(state.aggregator).items() if content},
        **{_PROBE + name: content for name, content in state.probe.items()},
        **{f"{_PENDING}{done}.safetensors": item.adapter for done, item in state.pending.items()},
    }


def _memories(aggregator: AggregatorState) -> dict[str, bytes]:
    return {_RULE: aggregator.rule_memory, _OPTIMIZER: aggregator.optimizer_memory}


def decode_state(files: Mapping[str, bytes]) -> RunState:
    """The state that `encode_state` wrote; floats come back to the bit."""
    plain = json.loads(files[_STATE])
    return RunState(
        rounds_done=plain["rounds_done"],
        aggregator=AggregatorState(
            adapter=files[_ADAPTER],
            version=plain["adapter_version"],
            trust=plain["trust"],
            defense=DefenseConfig.model_validate(plain["defense"]),
            rule_memory=files.get(_RULE, b""),
            optimizer_memory=files.get(_OPTIMIZER, b""),
        ),
        roster=Roster(
            known={client_id: tuple(paths) for client_id, paths in plain["clients"].items()}, active=tuple(plain["active"])
        ),
        changes=tuple(Change(**change) for change in plain["changes"]),
        probe={name.removeprefix(_PROBE): content for name, content in files.items() if name.startswith(_PROBE)},
        pending={
            int(done): PendingEvaluation(adapter_version=version, adapter=files[f"{_PENDING}{done}.safetensors"])
            for done, version in plain["pending"].items()
        },
        elapsed_s=plain["elapsed_s"],
        **{name: adapter.validate_python(plain[name]) for name, adapter in _REPORTS.items()},
    )
