"""What the levels read, in a few words: observations of one client, and a round's updates."""

from collections.abc import Sequence

import torch

from defense.rules.round_updates import RoundUpdates, WeightedUpdate
from defense.signals import ClientSignals, Measured, ProbeEvidence


def saw(
    num_flagged: int = 0, last: float = 0.5, client_id: str = "a", *, samples: int = 48, threshold: float = 0.8
) -> ProbeEvidence:
    """What the probe says: so many flagged samples of 48, and the probability of the last step."""
    return ProbeEvidence(
        client_id=client_id, num_samples=samples, num_flagged=num_flagged, last_probability=last, threshold=threshold
    )


def measured(**values: float) -> Measured:
    """What was measured of client a."""
    return Measured(client_id="a", values=values)


def signalled(client_id: str = "a", **by_signal) -> ClientSignals:
    """All that is known of one client's round."""
    return ClientSignals(client_id=client_id, by_signal=by_signal)


def gathered(rows: Sequence[Sequence[float]]) -> RoundUpdates:
    """The updates of clients c0, c1 ..., each of one tensor and of weight 1."""
    state = RoundUpdates()
    for i, row in enumerate(rows):
        delta = {"w": torch.tensor(row, dtype=torch.float64)}
        state = state.add(WeightedUpdate(client_id=f"c{i}", delta=delta, num_samples=16, weight=1.0))
    return state
