"""From what the round collected about one client to the signals that the levels weigh: no score, no weight."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from actors.config import TrainingConfig
from actors.messages import ClientEvidence, ProbeScore
from defense.signals import PROBED, ClientSignals, Measured, Observation, ProbeEvidence, Signal, Unasked, summarise_scores
from probe.config import PAPER_THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The signals of a client, or why there are none."""

    signals: ClientSignals | None
    reason: str | None
    """Set without signals, and where the probe refused a message of the client."""


def find_signals(
    evidence: ClientEvidence,
    num_samples: int,
    measured: Mapping[Signal, Mapping[str, float]],
    *,
    wanted: Collection[Signal],
    unasked: Collection[Signal] = (),
    training: TrainingConfig,
    update_threshold: float | None = None,
) -> Findings:
    """Every signal that the levels read.

    Args:
        num_samples: Examples that the client trained this round.
        measured: What the levels measured on the delta itself.
        wanted: What the levels read.
        unasked: Those of them that nobody has asked about this client in this round.
        update_threshold: The bound of level live; None: it has none, so that whatever the probe says is flagged.
    """
    collected = (*evidence.scores, *evidence.readings) if wanted else ()
    failures = [item.failure for item in collected if item.failure is not None]
    if failures:
        return _none(f"{len(failures)} of {len(collected)} scores and readings failed, first: {failures[0]}")
    values = {reading.signal: reading.values for reading in evidence.readings} | dict(measured)
    by_signal: dict[Signal, Observation] = {}
    for signal in sorted(wanted):
        if signal in unasked:
            by_signal[signal] = Unasked(client_id=evidence.client_id)
        elif signal in PROBED:
            by_signal[signal] = _probed(evidence, signal, num_samples, training, update_threshold)
        elif signal in values:
            by_signal[signal] = Measured(client_id=evidence.client_id, values=values[signal])
        else:
            return _none(f"no reading of the {signal}")
    refusals = [score.refusal for score in evidence.scores if wanted and score.refusal is not None]
    signals = ClientSignals(client_id=evidence.client_id, by_signal=by_signal)
    return Findings(signals=signals, reason=f"step_delta_refused: {refusals[0]}" if refusals else None)


def last_step_refusal(evidence: ClientEvidence) -> str | None:
    """Why the probe refused the last step delta that the client sent; None: it did not.

    That step delta is tied to the update. Were it a second one after a harmless first, then the first would have been scored.
    """
    steps = [score for score in evidence.scores if score.branch != "update"]
    return steps[-1].refusal if steps else None


def logged(signals: ClientSignals | None, columns: Collection[str]) -> dict[str, float | None]:
    """What was measured, by column of the log; None where NaN says that it could not be."""
    observations = signals.by_signal.values() if signals is not None else ()
    values = {name: value for item in observations if isinstance(item, Measured) for name, value in item.values.items()}
    return {name: None if math.isnan(values[name]) else values[name] for name in columns if name in values}


def verdict(signals: ClientSignals | None) -> ProbeEvidence | None:
    """What the probe says; where levels read several of its signals, the last of these."""
    observations = signals.by_signal.values() if signals is not None else ()
    return next((item for item in reversed(list(observations)) if isinstance(item, ProbeEvidence)), None)


def scores_of(evidence: ClientEvidence, signal: Signal) -> list[ProbeScore]:
    """The probe's scores of one kind."""
    return [score for score in evidence.scores if score.branch == signal and score.probability is not None]


def _none(why: str) -> Findings:
    return Findings(signals=None, reason=f"no_evidence: {why}")


def _probed(
    evidence: ClientEvidence, signal: Signal, num_samples: int, training: TrainingConfig, update_threshold: float | None
) -> ProbeEvidence:
    scores, is_update = scores_of(evidence, signal), signal == "update"
    threshold = next((score.threshold for score in scores if score.threshold is not None), PAPER_THRESHOLD)
    return summarise_scores(
        evidence.client_id,
        num_samples,
        {score.step: score.probability for score in scores if score.step is not None and score.probability is not None},
        # The verdict on an update is one on all its samples.
        num_steps=1 if is_update else training.steps,
        batch_size=training.steps * training.batch_size if is_update else training.batch_size,
        threshold=(update_threshold or 0.0) if is_update else threshold,
    )
