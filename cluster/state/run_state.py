"""What a run has committed: everything it needs to go on from a round, as one value and as the files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from actors.messages import AggregatorState, EvaluationReport, ProbeRound, RoundReport
from cluster.state.membership import Roster
from defense.config import DefenseConfig
from defense.guard import GuardState

_ADAPTER, _STATE = "adapter.safetensors", "state.json"
_RULE, _OPTIMIZER, _CONTROLS = "rule.safetensors", "optimizer.safetensors", "control-variates.safetensors"
_PROBE, _PENDING = "probe/", "evaluation-"
_REALIGNED = "realigned.safetensors"
_CERTIFIED = "certified.safetensors"
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
class Realigned:
    """What the server made of the adapter after the last round."""

    adapter: bytes
    """Safetensors."""
    seconds: float
    """That it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run between two rounds. Random streams need no entry: they follow from seed, client and round."""

    rounds_done: int = 0
    aggregator: AggregatorState
    roster: Roster
    guard: GuardState | None = None
    """None where no guard is on."""
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
    realigned: Realigned | None = None
    """None before the last round, and where nothing is realigned."""

    @property
    def final_adapter(self) -> bytes:
        """What a run that ends here hands over: the realigned adapter if there is one, else the global one."""
        return self.realigned.adapter if self.realigned else self.aggregator.adapter


def encode_state(state: RunState) -> dict[str, bytes]:
    """File name -> content."""
    plain: dict[str, Any] = {
        "rounds_done": state.rounds_done,
        "adapter_version": state.aggregator.version,
        "trust": dict(state.aggregator.trust),
        "defense": state.aggregator.defense.model_dump(mode="json"),
        "guard": _plain_guard(state.guard) if state.guard else None,
        "clients": {client_id: list(files) for client_id, files in state.roster.known.items()},
        "active": list(state.roster.active),
        "changes": [asdict(change) for change in state.changes],
        "elapsed_s": state.elapsed_s,
        "realigned_s": state.realigned.seconds if state.realigned else None,
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
        **({_REALIGNED: state.realigned.adapter} if state.realigned else {}),
        **({_CERTIFIED: state.guard.certified} if state.guard else {}),
    }


def _plain_guard(guard: GuardState) -> dict[str, Any]:
    """All but the certified adapter, which is a file of its own."""
    return {name: value for name, value in asdict(guard).items() if name != "certified"}


def _memories(aggregator: AggregatorState) -> dict[str, bytes]:
    return {_RULE: aggregator.rule_memory, _OPTIMIZER: aggregator.optimizer_memory, _CONTROLS: aggregator.control_variates}


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
            control_variates=files.get(_CONTROLS, b""),
        ),
        roster=Roster(
            known={client_id: tuple(paths) for client_id, paths in plain["clients"].items()}, active=tuple(plain["active"])
        ),
        guard=GuardState(certified=files[_CERTIFIED], **plain["guard"]) if _CERTIFIED in files else None,
        changes=tuple(Change(**change) for change in plain["changes"]),
        probe={name.removeprefix(_PROBE): content for name, content in files.items() if name.startswith(_PROBE)},
        pending={
            int(done): PendingEvaluation(adapter_version=version, adapter=files[f"{_PENDING}{done}.safetensors"])
            for done, version in plain["pending"].items()
        },
        elapsed_s=plain["elapsed_s"],
        realigned=Realigned(adapter=files[_REALIGNED], seconds=plain["realigned_s"]) if _REALIGNED in files else None,
        **{name: adapter.validate_python(plain[name]) for name, adapter in _REPORTS.items()},
    )
