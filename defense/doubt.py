"""Doubt: of which clients earlier references leave open what they are (docs/method.md section 8, "Refresh"). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from defense.bounds import Bound
from defense.config import DefenseConfig
from defense.level_bounds import References, level_bounds
from defense.levels.live import is_clear


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Up to which values reference clients of the same round have judged a client, so that there is no doubt about these."""

    probability: float
    """P(malicious), the highest that was judged."""
    flatness: float
    """Likewise; 0 where it is not measured."""
    rounds_done: int
    """Rounds done with the last round in which they did. It holds until twice as many are done."""

    def holds(self, rounds_done: int) -> bool:
        """Whether it still counts in the round that follows so many."""
        return rounds_done < 2 * self.rounds_done


def in_doubt(
    config: DefenseConfig,
    references: References,
    settled: Mapping[str, Settled],
    rounds_done: int,
    probabilities: Mapping[str, float],
    flatness: Mapping[str, float],
    threshold: float | None = None,
) -> list[str]:
    """Clients of which references of earlier rounds leave open what they are, sorted.

    The probe leaves it open (`defense.levels.live.is_clear`), or it takes a client for honest and its spectrum would exclude it;
    and no reference clients of its round have judged the client at such values yet, or that was long ago. A client that stays
    where it is in doubt is judged so after 1, 2, 4, 8, ... rounds at least, and each time that it goes farther than ever before:
    of n values in random order, 1 + 1/2 + ... + 1/n are expected to.

    Args:
        config: With `live` among its levels. Where that has no bound, or abstains, all clients are in doubt.
        references: As in `level_bounds`; likewise `threshold`.
        settled: By client id.
        rounds_done: Before the round.
        probabilities: Client id -> P(malicious).
        flatness: Client id -> flatness, where `spectrum` is among the levels.
    """
    bounds = level_bounds(config, references, threshold)
    bound, spectrum = bounds["live"], None if config.spectrum.max_flatness is not None else bounds.get("spectrum")

    def is_open(client_id: str, probability: float) -> bool:
        noise = flatness.get(client_id, 0.0)
        is_noisy = spectrum is not None and spectrum.excludes(noise) and not bound.excludes(probability)
        if is_clear(probability, bound) and not is_noisy:
            return False
        before = settled.get(client_id)
        return before is None or not before.holds(rounds_done) or _goes_beyond(before, probability, noise, bound)

    return [client_id for client_id, probability in sorted(probabilities.items()) if is_open(client_id, probability)]


def now_settled(
    settled: Mapping[str, Settled], rounds_done: int, probabilities: Mapping[str, float], flatness: Mapping[str, float]
) -> dict[str, Settled]:
    """What is settled once reference clients of a round have judged its clients.

    Args:
        settled: Before.
        rounds_done: With this round.
        probabilities: Client id -> P(malicious); likewise `flatness`.
    """
    now = dict(settled)
    for client_id, probability in probabilities.items():
        noise, before = flatness.get(client_id, 0.0), settled.get(client_id)
        if before is not None and before.holds(rounds_done - 1):
            probability, noise = max(probability, before.probability), max(noise, before.flatness)
        now[client_id] = Settled(probability=probability, flatness=noise, rounds_done=rounds_done)
    return now


def _goes_beyond(settled: Settled, probability: float, flatness: float, bound: Bound) -> bool:
    """Whether a client goes farther than what is settled; the probe is not asked where its bound abstains."""
    return flatness > settled.flatness or (bound.state == "in force" and not probability <= settled.probability)
