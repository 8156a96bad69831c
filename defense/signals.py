"""Signals: the kinds of evidence about one client's round, as the levels read them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ProbeSignal = Literal["real", "shadow", "update"]
"""What the probe scored: the step deltas of the real or of the shadow branch, or the submitted update."""
Signal = Literal["real", "shadow", "update", "canary", "validation", "spectrum"]
"""Beside these: what the update does to the server's refusals, to its validation data, and the update's own spectrum."""
PROBED: frozenset[Signal] = frozenset({"real", "shadow", "update"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEvidence:
    """What the probe says of one client's round.

    Example: 16 + 16 + 16 samples in three steps of which the second was flagged: num_samples 48, num_flagged 16,
    ratio 1/3.
    """

    client_id: str
    num_samples: int
    """n: examples trained this round."""
    num_flagged: int
    """h: examples in flagged or withheld steps, at most n."""
    last_probability: float
    """P(malicious) of the last local step, 1.0 when the client withheld it (docs/method.md section 3); at level live that of
    the submitted update."""
    threshold: float = 0.8
    """Decision threshold of the probe that gave the scores; 0.8 is the paper's."""

    @property
    def is_flagged(self) -> bool:
        """The verdict at the end of the client's round."""
        return not self.last_probability < self.threshold

    @property
    def ratio(self) -> float:
        """r = h / n."""
        return self.num_flagged / self.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one client's update. A level names the values that it reads and logs."""

    client_id: str
    values: Mapping[str, float]
    """Name -> value; NaN: it could not be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unasked:
    """The server did not ask: it wanted no shadow of this client, or had no reason to measure its update."""

    client_id: str


Observation = ProbeEvidence | Measured | Unasked
"""One signal of one client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSignals:
    """Everything that is known of one client's round."""

    client_id: str
    by_signal: Mapping[Signal, Observation]


def summarise_scores(
    client_id: str, num_samples: int, probabilities: Mapping[int, float], *, num_steps: int, batch_size: int, threshold: float
) -> ProbeEvidence:
    """Summarise the probabilities of a round's steps, keyed by step from 1.

    A step flags its whole batch unless p < threshold. A step without a probability is one that the client withheld; it
    counts as flagged (docs/method.md section 3). The caller has made sure that no score failed.
    """
    flagged = sum(not probabilities.get(step, 1.0) < threshold for step in range(1, num_steps + 1))
    return ProbeEvidence(
        client_id=client_id,
        num_samples=num_samples,
        num_flagged=min(num_samples, flagged * batch_size),
        last_probability=probabilities.get(num_steps, 1.0),
        threshold=threshold,
    )
