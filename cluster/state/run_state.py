"""What a run has committed: everything that it needs to go on from a round, as one value and as the files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from actors.messages import AggregatorState, EvaluationReport, ProbeRound, RoundReport
from cluster.config.loading import validate
from cluster.config.schema import RunConfig
from cluster.errors import CheckpointError
from cluster.state.history import History, Reports
from cluster.state.membership import Membership
from defense.bounds import ReferenceValues
from defense.doubt import Settled
from defense.guard import GuardState

_ADAPTER, _STATE = "adapter.safetensors", "state.json"
_RULE, _OPTIMIZER, _CONTROLS = "rule.safetensors", "optimizer.safetensors", "control-variates.safetensors"
_PROBE, _PENDING = "probe-", "evaluation-"
_REALIGNED = "realigned.safetensors"
_CERTIFIED = "certified.safetensors"
_REFERENCES = TypeAdapter(dict[str, ReferenceValues])
_SETTLED = TypeAdapter(dict[str, Settled])
_REPORTS = TypeAdapter(Reports)


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
    """The adapter as the server has fine-tuned it after the last round."""

    adapter: bytes
    """Safetensors."""
    seconds: float
    """Of the fine-tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run between two rounds. Random streams need no entry: they follow from seed, client and round."""

    config: RunConfig
    """As the run began, or was resumed the last time; `config_in_force` has what orders have changed since."""
    model_fingerprint: str = ""
    lora_fingerprint: str = ""
    """Of the LoRA settings and the initial adapter; empty in checkpoints of before."""
    """Of the base model that the rounds were trained on."""
    rounds_done: int = 0
    aggregator: AggregatorState
    membership: Membership
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
    def reports(self) -> Reports:
        """What grows with rounds."""
        return Reports(rounds=self.rounds, probe_rounds=self.probe_rounds, evaluations=self.evaluations)

    @property
    def config_in_force(self) -> RunConfig:
        """The configuration of the next round."""
        return self.config.model_copy(update={"defense": self.aggregator.defense})

    @property
    def final_adapter(self) -> bytes:
        """The adapter of a run that ends here: the realigned one if there is one, else the global one."""
        return self.realigned.adapter if self.realigned else self.aggregator.adapter


def find_fall(config: RunConfig, evaluations: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """The newest due evaluation when its safety is under `evaluation.stop_below`, which ends the run; None when it is not.

    Only due evaluations decide, so that a run ends after the same round however often it was stopped and resumed.

    Args:
        evaluations: In order of rounds. Due are those after each `evaluation.every` rounds, the base model's and that after the
            last round; not that of a realigned adapter, nor that of a round after which somebody stopped the run.
    """
    last, every, bound = config.rounds, config.evaluation.every, config.evaluation.stop_below
    due = [report for report in evaluations if report.rounds_done == last or report.rounds_done in range(0, last, every)]
    if bound is None or not due or due[-1].rule_score is None:
        return None
    return due[-1] if due[-1].rule_score.value < bound else None


def encode_state(state: RunState, history: str) -> dict[str, bytes]:
    """File name -> content. `history`: the name under which the state's reports were written (`History.write`)."""
    aggregator, guard, realigned = state.aggregator, state.guard, state.realigned
    plain = {
        "rounds_done": state.rounds_done,
        "adapter_version": aggregator.version,
        "trust": aggregator.trust,
        "references": {column: asdict(values) for column, values in aggregator.references.items()},
        "settled": {client_id: asdict(own) for client_id, own in aggregator.settled.items()},
        "config": state.config_in_force.model_dump(mode="json"),
        "model_fingerprint": state.model_fingerprint,
        "lora_fingerprint": state.lora_fingerprint,
        "guard": {name: value for name, value in asdict(guard).items() if name != "certified"} if guard else None,
        "clients": state.membership.known,
        "active": state.membership.active,
        "changes": [asdict(change) for change in state.changes],
        "elapsed_s": state.elapsed_s,
        "realigned_s": realigned.seconds if realigned else None,
        "pending": {str(done): item.adapter_version for done, item in state.pending.items()},
        "history": history,
    }
    memories = {_RULE: aggregator.rule_memory, _OPTIMIZER: aggregator.optimizer_memory, _CONTROLS: aggregator.control_variates}
    return {
        _ADAPTER: aggregator.adapter,
        _STATE: json.dumps(plain, default=dict).encode(),
        **{name: content for name, content in memories.items() if content},
        **{_PROBE + name: content for name, content in state.probe.items()},
        **{f"{_PENDING}{done}.safetensors": item.adapter for done, item in state.pending.items()},
        **({_REALIGNED: realigned.adapter} if realigned else {}),
        **({_CERTIFIED: guard.certified} if guard else {}),
    }


def decode_state(files: Mapping[str, bytes], history: History) -> RunState:
    """The state that `encode_state` wrote; floats come back to the bit.

    Args:
        history: Of the place where the checkpoint lies; it goes on from the state's reports.

    Raises:
        CheckpointError: it is not one that this release wrote, or its reports are missing or damaged.
    """
    try:
        return _decoded(files, history)
    except CheckpointError:
        raise
    except Exception as error:  # whatever is in the files, it is no state
        raise CheckpointError(
            f"the checkpoint holds no state that this release reads: {type(error).__name__}: {error}; resume the run with the "
            "release that wrote it"
        ) from error


def _decoded(files: Mapping[str, bytes], history: History) -> RunState:
    plain = json.loads(files[_STATE])
    config = validate(plain["config"])
    reports = history.read(plain["history"]) if "history" in plain else _own_reports(plain)
    return RunState(
        config=config,
        model_fingerprint=plain["model_fingerprint"],
        lora_fingerprint=plain.get("lora_fingerprint", ""),
        rounds_done=plain["rounds_done"],
        aggregator=AggregatorState(
            adapter=files[_ADAPTER],
            version=plain["adapter_version"],
            trust=plain["trust"],
            references=_REFERENCES.validate_python(plain["references"]),
            settled=_SETTLED.validate_python(plain.get("settled", {})),
            defense=config.defense,
            rule_memory=files.get(_RULE, b""),
            optimizer_memory=files.get(_OPTIMIZER, b""),
            control_variates=files.get(_CONTROLS, b""),
        ),
        membership=Membership(
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
        rounds=reports.rounds,
        probe_rounds=reports.probe_rounds,
        evaluations=reports.evaluations,
    )


def _own_reports(plain: Mapping[str, Any]) -> Reports:
    """Those that a checkpoint of before holds itself."""
    return _REPORTS.validate_python({name: plain[name] for name in ("rounds", "probe_rounds", "evaluations")})
