"""Rows of a round's log: what became of each sampled client, before the round's outcome is known."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from actors.gathering import Gathered, Reading, scored
from actors.messages import ClientRound, LoRAUpdate, ProbeScore
from defense.evidence import ClientEvidence, Evidence, Rise, Source, Spectrum, Validated


def absent_row(round_index: int, client_id: str, reason: str | None, num_bytes: int = 0) -> ClientRound:
    """A client that counts for nothing, and why; `num_bytes`: of what it sent."""
    return ClientRound(
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


def admitted_row(
    round_index: int,
    message: LoRAUpdate,
    found: Gathered,
    readings: Sequence[Reading],
    *,
    sources: Collection[Source],
    update_norm: float,
) -> ClientRound:
    """A client whose update was admitted, with the evidence on it and no weight yet."""
    return replace(
        absent_row(round_index, message.client_id, found.reason, tensor_bytes(message)),
        admitted=True,
        num_samples=message.num_samples,
        num_steps_scored=sum(len(scored(readings, source)) for source in sorted(sources)),
        update_norm=update_norm,
        loss=message.loss,
        train_s=message.train_s,
        **_verdict(found.evidence, readings),
    )


def tensor_bytes(message: LoRAUpdate) -> int:
    """Bytes of all tensors that came with an update."""
    sent = [*message.tensors.values(), *(message.control_variate or {}).values()]
    return sum(tensor.nbytes for tensor in sent)


def _verdict(evidence: ClientEvidence | None, readings: Sequence[Reading]) -> dict[str, Any]:
    """Fields that say what the sources found."""
    versions = [item.probe_version for item in readings if isinstance(item, ProbeScore) and item.probe_version is not None]
    found: dict[str, Any] = {"probe_version": max(versions, default=None)}
    for item in evidence.by_source.values() if evidence is not None else ():
        if isinstance(item, Rise):
            found["canary_rise"] = item.rise
        elif isinstance(item, Validated):
            found |= {"validation_cosine": _known(item.cosine), "validation_fall": item.fall}
        elif isinstance(item, Spectrum):
            found["flatness"] = _known(item.flatness)
        elif isinstance(item, Evidence):
            found |= {"malicious_ratio": item.ratio, "last_step_probability": item.last_probability, "flagged": item.is_flagged}
    return found


def _known(value: float) -> float | None:
    """NaN is what nobody could measure; a table has null there, before a resume and after it."""
    return None if math.isnan(value) else value
