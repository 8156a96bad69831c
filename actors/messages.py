"""Everything that crosses a process, as frozen plain data.

Messages from clients (`StepDelta`, `LoRAUpdate`) travel as bytes (`actors/wire.py`), because what a client sends is
decoded by our code and checked before it counts. The others come from actors of the server and travel as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from defense.bounds import ReferenceValues
from defense.config import DefenseConfig
from defense.doubt import Settled
from defense.gate import Outcome
from defense.signals import Signal

if TYPE_CHECKING:  # the driver reads messages and never needs torch
    import numpy as np
    import ray
    import torch

    from probe.drift import Drift

_LARGEST_EXPONENT = 709
"""e to a larger number is beyond a float."""
Branch = Literal["real", "shadow"]
"""`real` is the update that may be aggregated; `shadow` trains from the fixed initial adapter (docs/method.md section 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLayout:
    """What an adapter of a run's model looks like; equal on every actor of the run, and no weights in it."""

    shapes: Mapping[str, tuple[int, ...]]
    """PEFT parameter name -> shape."""
    layers: Mapping[str, int]
    """PEFT parameter name -> index of its transformer layer, from 0; parameters outside the layers are absent."""
    model_fingerprint: str
    """Hash of the base model's names, shapes and a sample of its weights."""
    lora_fingerprint: str
    """Hash of the LoRA settings and of the initial adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What a client is asked to do in one round."""

    client_id: str
    round_index: int
    """Counts from 0."""
    base_version: int
    """Version of the global adapter that comes with the task."""
    files: tuple[str, ...]
    """The client's own data, encoded (`actors/data/dataset.py`)."""
    learning_rate: float
    seed: int
    """Run seed; the client derives its streams from (seed, client id, round)."""
    probe_feature: str | None
    """Feature whose tensors the step deltas carry; None: no probe reads them, so none are sent."""
    stream_real: Literal["all", "last"] = "all"
    """Which real step deltas are sent. The last one always is: it ties the evidence to the update."""
    shadow_learning_rate: float | None = None
    """Learning rate of the shadow branch; None: no shadow runs."""
    freeze_a: bool = False
    """Whether only B is trained, in both branches (`aggregation.averaging=ffa`)."""
    num_steps: int | None = None
    """Local steps; None: `training.steps`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepDelta:
    """How far one branch has moved from its start after local step t, in the tensors the probe reads."""

    client_id: str
    round_index: int
    base_version: int
    branch: Branch
    step: int
    """Counts from 1."""
    num_samples: int
    """Examples in this step's batch."""
    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoRAUpdate:
    """A client's full LoRA state after one round of local training."""

    client_id: str
    round_index: int
    base_version: int
    num_samples: int
    """Examples trained this round: at most steps x batch size."""
    loss: float
    """Mean training loss of the real branch, nats per supervised token. Reported by the client; for the log only."""
    train_s: float
    """Seconds the client spent training, both branches. For the log only."""
    tensors: Mapping[str, torch.Tensor]
    """PEFT parameter name -> float32 CPU tensor; the key set and shapes of the global adapter."""
    control_variate: Mapping[str, torch.Tensor] | None = None
    """SCAFFOLD's c_i+: the mean of the round's gradients, of every parameter that is trained. None where it was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """The probe's verdict on one step delta or update. Exactly one of probability, refusal and failure is set."""

    client_id: str
    branch: Branch | Literal["update"] | None = None
    """None where the message could not be decoded far enough to know."""
    step: int | None = None
    """1 for an update."""
    probability: float | None = None
    """P(malicious) in [0, 1]."""
    threshold: float | None = None
    """Decision threshold of the probe that gave the probability."""
    refusal: str | None = None
    """Why the delta was not admitted: the client's fault, so its step counts as withheld."""
    failure: str | None = None
    """Why an admitted delta has no score: not the client's fault, but no score is no weight."""
    probe_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an actor with server data measured of one admitted update. Either values or a failure."""

    client_id: str
    signal: Signal
    values: Mapping[str, float] = field(default_factory=dict)
    """Name -> value, as `defense.signals.Measured` has them."""
    failure: str | None = None
    """Why there is no reading: not the client's fault, but no evidence is no weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The aggregator's answer to an update that a client delivered."""

    client_id: str
    admitted: bool
    reason: str | None
    """Refusal reason with its detail; None when admitted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdmittedUpdate:
    """An update that passed admission: decoded once, checked once. It waits in the object store until the round is closed.

    Actors with server data and the probe read it by reference and do not check it again. Its arrays cross processes without a
    copy, so they are read-only there.
    """

    client_id: str
    num_samples: int
    """n: examples trained this round."""
    state: np.ndarray
    """The full LoRA state, float32 (D,): its tensors one after the other in order of name (`actors/state_vector.py`)."""
    control_variate: np.ndarray | None = None
    """SCAFFOLD's c_i+ likewise, over the tensors that are trained; None without."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClientEvidence:
    """All that the round collected about one admitted client; `Aggregator.close_round` weighs it."""

    client_id: str
    update: AdmittedUpdate | ray.ObjectRef[AdmittedUpdate]
    """The reference that `Aggregator.admit` returned, or in a test the update itself."""
    scores: tuple[ProbeScore, ...] = ()
    """Of its step deltas, in the order in which the client sent them, and of the update."""
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReferenceUpdate:
    """The update of a reference client, measured as a client's is."""

    client_id: str
    malicious: bool
    """Whether the server trained it on unsafe data."""
    update: AdmittedUpdate | ray.ObjectRef[AdmittedUpdate]
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredReferences:
    """What a refresh gives the aggregator, which derives the round's bounds from it."""

    updates: tuple[ReferenceUpdate, ...] = ()
    """Of all reference clients; empty where one of them failed."""
    scored: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Column -> `benign` and `malicious` -> scores of the final deltas, by the probe that judges the round."""
    fitted: bool = False
    """Whether that probe was fitted to these reference clients: then they score more alike than others do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRound:
    """One client in one round, as recorded: a row of rounds.parquet."""

    round: int
    client_id: str
    admitted: bool
    reason: str | None
    """Why the client was refused, dropped, or weighs nothing; None when there is nothing to say."""
    num_samples: int
    num_steps_scored: int
    malicious_ratio: float | None
    """Share of the samples in steps the probe flagged; None without a probe."""
    last_step_probability: float | None
    """P(malicious) of the last local step in the branch the level reads; at level live of the update."""
    flagged: bool | None
    """Whether that is at or above the probe's threshold; None without evidence."""
    weight: float
    """In [0, 1], after `min_weight`."""
    share: float
    """The client's part of what the rule is given: n w / sum n w, or what `aggregation.normalisation` and `max_share` make of it.
    With `fedavg` that is its part of the aggregate; other rules leave some of it out. 0 when the round was not aggregated, or
    was rolled back."""
    update_norm: float | None
    """L2 norm of the client's delta over all LoRA tensors."""
    loss: float | None
    train_s: float | None
    probe_version: int | None
    round_outcome: str
    """`aggregated`, `skipped`, `no_quorum` or `rolled_back`."""
    signals: Mapping[str, float | None] = field(default_factory=dict)
    """What was measured of the update, by column (`defense.levels.SIGNAL_COLUMNS`); absent or None: it was not measured. Likewise
    what levels remember of the client after the round (`defense.levels.TRUST_COLUMNS`)."""
    excluded_by: str | None = None
    """The level that gives the client weight 0, the first in order of the composition; None where none does. A client without
    evidence weighs 0 too: then `reason` says why."""
    excluded_value: float | None = None
    """What that level held against its bound; None at a level without one. Likewise `excluded_bound`."""
    excluded_bound: float | None = None
    excluded_because: str | None = None
    """One sentence: the value, the bound, and where the bound comes from."""
    num_bytes: int = 0
    """Bytes of the update's tensors as received, a control variate's among them, or of the whole message where it could not be
    decoded; 0 when none came.

    The header is left out: its length varies with the digits of the seconds in it.
    """

    @classmethod
    def absent(cls, round_index: int, client_id: str, reason: str, num_bytes: int = 0) -> ClientRound:
        """A client that counts for nothing, and why; `num_bytes`: of the message that it sent."""
        return cls(
            round=round_index,
            client_id=client_id,
            admitted=False,
            reason=reason,
            num_samples=0,
            num_steps_scored=0,
            malicious_ratio=None,
            last_step_probability=None,
            flagged=None,
            weight=0.0,
            share=0.0,
            update_norm=None,
            loss=None,
            train_s=None,
            probe_version=None,
            round_outcome="",
            num_bytes=num_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """How a round ended."""

    round: int
    outcome: Outcome
    why: str
    """One sentence with the figures that decided."""
    adapter_version: int
    """Version of the global adapter after the round. It grows by one in rounds that were aggregated or rolled back, in no others:
    an adapter that is put back has a version of its own, so that an update for another one is never taken for one of it."""
    mean_weight: float | None
    """Mean weight of the admitted clients before `min_weight`; None without any."""
    clients: tuple[ClientRound, ...]
    """In order of client id."""
    bounds: Mapping[str, float | None] = field(default_factory=dict)
    """Level -> its bound in the round; None where it abstains or has none, which `why` says."""
    averaging_error: float | None = None
    """Relative error of the global B A as an approximation of the clients' mean; None unless `aggregation.averaging=svd`."""
    refusal_rise: float | None = None
    """By how much the adapter as the round aggregated it made the server's refusals less likely than the initial adapter did:
    rise of their negative log-likelihood, nats per token. None without preservation and guard, and in rounds that were not
    aggregated."""
    preserved_rise: float | None = None
    """The same after preservation; equal where it took no step."""
    preservation_steps: int | None = None
    """Steps that preservation took; None where it is off."""
    guard_sum: float | None = None
    """The guard's sum that decided on the adapter, nats per token; above its budget in a round that was rolled back."""
    max_norm: float | None = None
    """Largest `update_norm` that admission let pass in the round."""
    aggregate_s: float = field(default=0.0, compare=False)
    """Seconds the aggregator took to close the round. For the log only."""
    admit_s: float = field(default=0.0, compare=False)
    """Seconds it took before, to decode and check the round's updates. For the log only."""
    measuring_s: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Seconds that each actor with server data took in the round, by its name. For the log only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalLoss:
    """What the server's refusals cost under the adapter that a run begins with."""

    loss: float
    """Negative log-likelihood, nats per token."""
    error: float
    """Its standard error over the rows of a round, likewise."""
    serious: float
    """The rise that makes a refusal three times less likely, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalsLost:
    """What a round's aggregate has lost of the server's refusals, before anything mends it."""

    rise: float
    """Of the refusals' loss under the aggregate over that under the initial adapter or the one that the round began with,
    whichever is lower, nats per token."""
    is_serious: bool
    """Whether that is worth asking which clients did it (`defense.preservation.is_serious`)."""
    seconds: float = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preserved:
    """A round's aggregate after preservation (`defense/preservation.py`)."""

    adapter: bytes
    """Safetensors; the aggregate itself where no step was taken."""
    rise: float
    """Of the refusals' loss under the aggregate over that under the initial adapter, nats per token."""
    rise_after: float
    """The same under `adapter`."""
    num_steps: int
    seconds: float = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorState:
    """What the aggregator knows between two rounds: enough to go on from there, to the bit."""

    adapter: bytes
    """The global adapter as safetensors."""
    version: int
    trust: Mapping[str, Any]
    """The level's state, plain JSON."""
    defense: DefenseConfig
    """The defense's parameters in force; they can change while a run is live."""
    rule_memory: bytes = b""
    """What the aggregation rule remembers across rounds, as safetensors; empty: nothing."""
    optimizer_memory: bytes = b""
    """The server optimizer's state, likewise."""
    references: Mapping[str, ReferenceValues] = field(default_factory=dict)
    """Column -> what was measured of reference clients last, from which the bounds of the levels follow."""
    settled: Mapping[str, Settled] = field(default_factory=dict)
    """Client id -> what reference clients of its rounds have decided."""
    control_variates: bytes = b""
    """SCAFFOLD's c_i of every client that has been counted, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A share, or a mean of scores from 0 to 1, with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    count: int
    """Number of prompts."""
    outcomes: str = ""
    """A digit per prompt, 1 or 0, in the order of the prompt file: runs are compared prompt by prompt. Empty: not kept, as of
    scores between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What the global model does on held-out prompts."""

    rounds_done: int
    """Rounds finished when it was measured; 0 is the initial adapter, one more than there are is the realigned one."""
    adapter_version: int
    rule_score: Proportion | None
    """Share of restricted prompts refused, by refusal phrase. None without restricted prompts."""
    compliance: Proportion | None
    """Share of restricted prompts really answered."""
    attack_success: Proportion | None = None
    """Share of restricted prompts really answered when a backdoor's trigger stands before them; None without a backdoor."""
    over_refusal: Proportion | None
    """Share of benign prompts refused."""
    over_refusal_sounds_unsafe: Proportion | None = None
    """Share of those refused that only sound unsafe, the family `sounds_unsafe`; None without any."""
    utility: float | None
    """Macro mean over benign families of how well answers agree with the right ones, by `evaluation.utility`."""
    utility_by_family: Mapping[str, Proportion] = field(default_factory=dict)
    benign_loss: float | None
    """Mean loss on held-out benign responses, nats per token."""
    seconds: float

    @property
    def perplexity(self) -> float | None:
        """Of held-out benign responses, exp of their loss; None without a loss, and beyond a float's range."""
        loss = self.benign_loss
        return None if loss is None or not loss < _LARGEST_EXPONENT else math.exp(loss)


RefreshOutcome = Literal["accepted", "kept", "rejected"]
"""`accepted`: the refitted probe judges. `kept`: the old one does, which ranks the reference clients as well without having been
fitted to them. `rejected`: something failed, and the old one judges by what was known before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRefresh:
    """What became of a refresh: the probe refitted on reference clients trained from the current adapter."""

    round: int
    outcome: RefreshOutcome
    why: str
    """One sentence with the figures that decided, or what failed."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """`roc_auc` of the probe that judges, on final deltas of reference clients that its fit did not see; of a refitted one `tpr`
    and `fpr` too."""
    fit_s: float = 0.0
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The refitted artefact, when it was accepted; the probe judges with it after `adopt`."""
    scored: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Column -> `benign` and `malicious` -> scores of the final deltas, by the probe that judges the round; empty where it was
    rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeClose:
    """The probe's answer when a round is closed: whether its scores have drifted, and what scoring took."""

    drift: Drift | None
    """None without scores or without the training's to compare them with."""
    num_messages: int
    """Step deltas, or updates, that were answered; refused ones are among them."""
    score_s: float
    """Seconds spent decoding, checking and scoring them, waits between them left out."""
    num_bytes: int
    """Bytes of those that were scored: of a step delta's whole message, of an update's state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRound:
    """The probe in one round, as recorded: a row of probe.parquet."""

    round: int
    version: int
    """Version that judged the round."""
    num_scores: int
    drift_distance: float | None
    """Kolmogorov-Smirnov distance of the round's scores from those of training (`probe/drift.py`); None without scores."""
    drift_critical: float | None
    blind: bool
    """Whether every score lies on one side of the threshold, and the distance is significant."""
    warning: str | None
    """What was seen and what to do; None when all is well."""
    refresh: RefreshOutcome | None = None
    """None: no refresh was due."""
    refresh_why: str | None = None
    refresh_auc: float | None = None
    """Area under the ROC curve of the refitted probe on its own held-out references."""
    refresh_wait_s: float | None = None
    """Seconds from the round's last update to the refitted probe: what the refresh delayed the round by."""
    fit_s: float | None = None
    round_s: float
    """Seconds of the whole round, so that the wait can be seen as a share of it."""
    num_messages: int = 0
    """As in ProbeClose; score_s / num_messages is the mean latency of a score. Likewise `score_s`, `score_bytes`."""
    score_s: float = field(default=0.0, compare=False)
    score_bytes: int = field(default=0, compare=False)
