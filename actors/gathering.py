"""From what is said about one client's round to the evidence that the levels weigh: no score, no weight."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from actors.config import TrainingConfig
from actors.errors import WireError
from actors.messages import CanaryReading, LoRAUpdate, MeterReading, ProbeScore, StepDelta, ValidationReading
from actors.wire import decode_message
from defense.admission import Reason, Refusal, check_tie
from defense.evidence import ClientEvidence, Evidence, Rise, Source, Spectrum, Unasked, Validated, gather_evidence
from defense.flatness import flatness
from probe.config import PAPER_THRESHOLD

Reading = ProbeScore | MeterReading

_METERS: dict[Source, type[MeterReading]] = {"canary": CanaryReading, "validation": ValidationReading}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Evidence on a client, or why there is none."""

    evidence: ClientEvidence | None
    reason: str | None
    """Set without evidence, and where something the client sent was refused."""


def gather(
    message: LoRAUpdate,
    delta: Mapping[str, torch.Tensor],
    readings: Sequence[Reading],
    *,
    sources: Collection[Source],
    shadow_asked: bool,
    training: TrainingConfig,
) -> Gathered:
    """The evidence from every source that the levels read.

    Args:
        delta: Client minus global.
        sources: What the levels read.
        shadow_asked: Whether this client was to train a shadow this round.
    """
    wanted = [item for item in readings if sources]
    failures = [item.failure for item in wanted if item.failure is not None]
    if failures:
        return Gathered(evidence=None, reason=f"no_evidence: {len(failures)} steps without a score, first: {failures[0]}")
    by_source: dict[Source, Evidence | Rise | Validated | Spectrum | Unasked] = {}
    for source in sorted(sources):
        if source in _METERS:
            found = _metered(readings, source)
            if found is None:
                return Gathered(evidence=None, reason=_unmetered(readings, source))
            by_source[source] = found
        elif source == "spectrum":
            by_source[source] = Spectrum(client_id=message.client_id, flatness=flatness(delta))
        elif source == "shadow" and not shadow_asked:
            by_source[source] = Unasked(client_id=message.client_id)
        else:
            by_source[source] = _probed(message, readings, source, training)
    refusals = [item.refusal for item in wanted if item.refusal is not None]
    evidence = ClientEvidence(client_id=message.client_id, by_source=by_source)
    return Gathered(evidence=evidence, reason=f"step_delta_refused: {refusals[0]}" if refusals else None)


def scored(readings: Sequence[Reading], source: Source) -> list[ProbeScore]:
    """The probe's scores from one source."""
    return [s for s in readings if isinstance(s, ProbeScore) and s.branch == source and s.probability is not None]


def tie_refusal(
    delta: Mapping[str, torch.Tensor], last_delta: bytes | None, readings: Sequence[Reading], num_steps: int
) -> Refusal | None:
    """Why step deltas are no evidence on an update: the last must be the real branch's last step, the one that was scored, and
    the update's delta to the bit.

    Args:
        delta: Client minus global in float32.
        last_delta: The encoded message before the update; not a second one after a harmless first.
        readings: In the order in which the client sent what they are of.
    """
    if last_delta is None:
        return Refusal(Reason.UNTIED_EVIDENCE, "no step delta came with the update")
    try:
        last = decode_message(last_delta, StepDelta)
    except WireError as error:
        return Refusal(Reason.UNTIED_EVIDENCE, f"the last step delta is malformed: {error}")
    if last.branch != "real":
        return Refusal(Reason.UNTIED_EVIDENCE, "the message before the update is no real step delta")
    if last.step != num_steps:
        return Refusal(Reason.UNTIED_EVIDENCE, f"the message before the update is of step {last.step}, not the last")
    refusal = last_step_refusal(readings)
    if refusal is not None:
        return Refusal(Reason.UNTIED_EVIDENCE, f"the last step delta was refused: {refusal}")
    return check_tie(delta, last.tensors)


def last_step_refusal(readings: Sequence[Reading]) -> str | None:
    """Why the last step delta that the client sent was refused; None when it was not. Readings come in the order sent."""
    steps = [item for item in readings if isinstance(item, ProbeScore) and item.branch != "update"]
    return steps[-1].refusal if steps else None


def _probed(message: LoRAUpdate, readings: Sequence[Reading], source: Source, training: TrainingConfig) -> Evidence:
    read, is_update = scored(readings, source), source == "update"
    return gather_evidence(
        message.client_id,
        message.num_samples,
        {s.step: s.probability for s in read},
        # The verdict on an update is one on all its samples.
        num_steps=1 if is_update else training.steps,
        batch_size=training.steps * training.batch_size if is_update else training.batch_size,
        threshold=next((s.threshold for s in read if s.threshold is not None), PAPER_THRESHOLD),
    )


def _metered(readings: Sequence[Reading], source: Source) -> Rise | Validated | None:
    """What a meter read of the update; None where it did not."""
    for item in (item for item in readings if isinstance(item, _METERS[source])):
        if isinstance(item, CanaryReading) and item.rise is not None:
            return Rise(client_id=item.client_id, rise=item.rise)
        if isinstance(item, ValidationReading) and item.fall is not None and item.norm is not None:
            cosine = math.nan if item.cosine is None else item.cosine
            return Validated(client_id=item.client_id, cosine=cosine, fall=item.fall, norm=item.norm)
    return None


def _unmetered(readings: Sequence[Reading], source: Source) -> str:
    refusals = [item.refusal for item in readings if isinstance(item, _METERS[source]) and item.refusal is not None]
    what = f"the {source} refused the update: {refusals[0]}" if refusals else f"no reading of the {source}"
    return f"no_evidence: {what}"
