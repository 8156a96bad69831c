"""The round that the aggregator has open: what each client delivered, and what is known of it, a row for each."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import ray
import torch

from actors.admission import CheckedUpdate, UpdateCheck
from actors.config import TrainingConfig
from actors.evidence import Findings, find_signals, last_step_refusal, logged, scores_of, verdict
from actors.messages import AdmittedUpdate, ClientEvidence, ClientRound
from actors.scaffold import Gradient
from actors.wire import tensor_bytes
from defense import levels
from defense.admission.checks import OpenRound, Reason, Refusal
from defense.bounds import Bound
from defense.config import DefenseConfig
from defense.levels.level import Exclusion
from defense.levels.spectrum import FLATNESS
from defense.rules.round_updates import WeightedUpdate
from defense.signals import Signal

Held = AdmittedUpdate | ray.ObjectRef
"""An update, or where it waits in the object store."""


@dataclass(slots=True, kw_only=True)
class RoundInProgress:
    """Becomes part of the aggregator's state only when it is closed."""

    check: UpdateCheck
    training: TrainingConfig
    defense: DefenseConfig
    min_updates: int
    mean_control: Gradient | None = None
    """SCAFFOLD's c; None without."""
    rows: dict[str, ClientRound] = field(default_factory=dict)
    """Client id -> its row, as far as it is known."""
    measured: dict[str, dict[Signal, dict[str, float]]] = field(default_factory=dict)
    """What the levels measured on each admitted delta itself."""
    admit_s: float = 0.0
    unasked: frozenset[Signal] = frozenset()
    """Signals that nobody was asked about any client."""

    @property
    def expected(self) -> OpenRound:
        return self.check.expected

    def copy(self, unasked: Sequence[Signal]) -> RoundInProgress:
        """The round with rows of its own, so that it can be closed and taken back."""
        return replace(self, rows=dict(self.rows), unasked=frozenset(unasked))

    def admit(self, client_id: str, update: bytes, last_delta: bytes | None) -> CheckedUpdate | Refusal:
        """Decode and check what a client delivered, once, and note what became of it."""
        started = time.perf_counter()
        if client_id in self.rows:
            checked: CheckedUpdate | Refusal = Refusal(Reason.DUPLICATE, f"{client_id} was already received this round")
        else:
            checked = self.check.admit(client_id, update, last_delta)
            if client_id in self.expected.client_ids:
                self._record(client_id, checked, _size(update, checked))
        self.admit_s += time.perf_counter() - started
        return checked

    def _record(self, client_id: str, checked: CheckedUpdate | Refusal, num_bytes: int) -> None:
        """The weight comes when the round is closed."""
        if isinstance(checked, Refusal):
            self._leave_out(client_id, str(checked), num_bytes)
            return
        message = checked.message
        self.measured[client_id] = levels.measure(self.defense, checked.delta)
        self.rows[client_id] = replace(
            ClientRound.absent(self.expected.round_index, client_id, "", num_bytes),
            admitted=True,
            reason=None,
            num_samples=message.num_samples,
            update_norm=checked.norm,
            loss=message.loss,
            train_s=message.train_s,
        )

    def _leave_out(self, client_id: str, why: str, num_bytes: int) -> None:
        self.rows[client_id] = ClientRound.absent(self.expected.round_index, client_id, why, num_bytes)

    def said(self, evidence: Sequence[ClientEvidence]) -> tuple[dict[str, float], dict[str, float]]:
        """Client id -> the probe's P(malicious) of the update, and client id -> flatness, of admitted clients."""
        scores = {score.client_id: score.probability for item in evidence for score in scores_of(item, "update")}
        known = {client_id: probability for client_id, probability in scores.items() if probability is not None}
        return known, {name: own["spectrum"][FLATNESS] for name, own in self.measured.items() if "spectrum" in own}

    def find(
        self, evidence: Sequence[ClientEvidence], absent: Mapping[str, str], bounds: Mapping[str, Bound]
    ) -> dict[str, Findings]:
        """The signals of every admitted client, in order of id; a row for every sampled client.

        Raises:
            RuntimeError: there is evidence on a client that was not admitted.
        """
        found = {}
        for item in sorted(evidence, key=lambda item: item.client_id):
            row = self.rows.get(item.client_id)
            if row is None or not row.admitted:
                raise RuntimeError(f"there is evidence on {item.client_id}, whose update was not admitted this round")
            refusal = last_step_refusal(item) if self.check.is_tied else None
            if refusal is not None:
                why = Refusal(Reason.UNTIED_EVIDENCE, f"the last step delta was refused: {refusal}")
                self._leave_out(item.client_id, str(why), row.num_bytes)
                continue
            found[item.client_id] = self._found(item, row, bounds)
        for client_id in self.expected.client_ids - set(found):
            row = self.rows.get(client_id)
            if row is None:
                self._leave_out(client_id, absent.get(client_id, "nothing was received"), 0)
            elif row.admitted:
                self._leave_out(client_id, absent.get(client_id, "no_evidence: none was collected"), row.num_bytes)
        return found

    def _found(self, item: ClientEvidence, row: ClientRound, bounds: Mapping[str, Bound]) -> Findings:
        """The signals of a client, and its row with what they say."""
        signals = levels.signals_of(self.defense)
        found = find_signals(
            item,
            row.num_samples,
            self.measured[item.client_id],
            wanted=signals,
            unasked=self.unasked if item.client_id in (self.expected.shadow_ids or ()) else {*self.unasked, "shadow"},
            training=self.training,
            update_threshold=bounds["live"].limit if "live" in bounds else None,
        )
        said, versions = verdict(found.signals), [score.probe_version for score in item.scores if score.probe_version is not None]
        self.rows[item.client_id] = replace(
            row,
            reason=found.reason,
            num_steps_scored=sum(len(scores_of(item, signal)) for signal in signals),
            malicious_ratio=said.ratio if said else None,
            last_step_probability=said.last_probability if said else None,
            flagged=said.is_flagged if said else None,
            probe_version=max(versions, default=None),
            signals=logged(found.signals, levels.SIGNAL_COLUMNS),
        )
        return found

    def note(self, client_id: str, values: Mapping[str, float | None]) -> None:
        """Add to what was measured of a client."""
        row = self.rows[client_id]
        self.rows[client_id] = replace(row, signals={**row.signals, **values})

    def decide(self, client_id: str, weight: float, exclusion: Exclusion | None) -> None:
        """The client's weight, and why a level gives none."""
        row = replace(self.rows[client_id], weight=weight)
        if exclusion is not None and not weight > 0:
            row = replace(
                row,
                excluded_by=exclusion.level,
                excluded_value=None if exclusion.value is None or math.isnan(exclusion.value) else exclusion.value,
                excluded_bound=exclusion.bound,
                excluded_because=exclusion.because,
            )
        self.rows[client_id] = row

    def weighted(self, update: AdmittedUpdate, weight: float) -> WeightedUpdate:
        """An update's delta in float64, of what is trained, with its weight."""
        delta = torch.from_numpy(update.state.astype(np.float64)).sub_(self.check.start)
        free = {name: tensor for name, tensor in self.check.layout.unpack(delta).items() if name not in self.check.frozen}
        return WeightedUpdate(client_id=update.client_id, delta=free, num_samples=update.num_samples, weight=weight)


def held(update: Held) -> AdmittedUpdate:
    """The update itself, from the object store where it waited there."""
    return ray.get(update) if isinstance(update, ray.ObjectRef) else update


def _size(update: object, checked: CheckedUpdate | Refusal) -> int:
    """Bytes of the tensors in what a client delivered, of all of it where it could not be decoded; 0 where it is not bytes."""
    if not isinstance(update, bytes):
        return 0
    is_message = not isinstance(checked, Refusal) or checked.reason is not Reason.MALFORMED
    return tensor_bytes(update) if is_message else len(update)
