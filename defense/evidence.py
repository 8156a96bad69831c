"""From the probe's scores of one client's round to the evidence that a level weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Source = Literal["real", "shadow", "update", "canary", "validation", "spectrum"]
"""Where evidence comes from: a branch's step deltas or the submitted update, by the probe; the canary; the server's
validation data; or the update's own spectrum."""
PROBED: frozenset[Source] = frozenset({"real", "shadow", "update"})
"""The sources that are the probe's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
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
    """P(malicious) of the last local step, 1.0 when the client withheld it (METHOD.md section 3); at level live that of
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
class Rise:
    """What the canary says of one client's update."""

    client_id: str
    rise: float
    """Negative log-likelihood of the server's refusals under the update minus that under the global adapter, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What clean data of the clients' own task says of one client's update."""

    client_id: str
    cosine: float
    """To the update that the server trained on that data, in [-1, 1]; NaN where it trained none."""
    fall: float
    """Loss of that data under the global adapter minus that under the update, nats per token."""
    norm: float
    """L2 norm of the update's delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """What the singular values of one client's update say."""

    client_id: str
    flatness: float
    """As `defense/flatness.py` measures it: about 1 for noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the round's other updates say of one client's update."""

    client_id: str
    cosine: float
    """To the mean of the others, in [-1, 1]; 0 where it points nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unasked:
    """A client of which the server wanted no evidence this round."""

    client_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvidence:
    """All that is known of one client's round."""

    client_id: str
    by_source: Mapping[Source, Evidence | Rise | Validated | Spectrum | Unasked]


def gather_evidence(
    client_id: str, num_samples: int, probabilities: Mapping[int, float], *, num_steps: int, batch_size: int, threshold: float
) -> Evidence:
    """Summarise the probabilities of a round's steps, keyed by step from 1.

    A step flags its whole batch unless p < threshold. A step without a probability is one the client withheld; it
    counts as flagged (METHOD.md section 3). Whoever calls this has made sure that no score failed.
    """
    flagged = sum(not probabilities.get(step, 1.0) < threshold for step in range(1, num_steps + 1))
    return Evidence(
        client_id=client_id,
        num_samples=num_samples,
        num_flagged=min(num_samples, flagged * batch_size),
        last_probability=probabilities.get(num_steps, 1.0),
        threshold=threshold,
    )
