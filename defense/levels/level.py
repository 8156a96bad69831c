"""What a level is: a function from evidence to weights, and what belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from defense.signals import Signal

if TYPE_CHECKING:
    import torch

    from defense.config import DefenseConfig
    from defense.rules.round_updates import RoundUpdates

Trust = Mapping[str, Any]
"""Client id -> what a level remembers of it: plain JSON that is never changed in place."""
Weights = dict[str, float]
"""Client id -> weight in [0, 1]."""
Weigh = Callable[[Trust, Sequence[Any]], tuple[Weights, Trust]]
"""From trust and one observation per client to weights and new trust."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a level that compares the clients of a round says of them."""

    weights: Weights
    trust: Trust
    values: Mapping[str, Mapping[str, float]]
    """Client id -> the level's columns."""


Compare = Callable[["DefenseConfig", Trust, "RoundUpdates"], Comparison]
"""From trust, and all updates with a weight above 0, to a verdict on each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level; `defense/levels/__init__.py` has the table of them."""

    bind: Callable[[DefenseConfig], Weigh] | None = None
    """The level with its settings; None for a level that compares clients."""
    reads: Signal | None = None
    """The signal whose observations it weighs; None: one `ClientSignals` per client, of which it reads nothing."""
    columns: tuple[str, ...] = ()
    """Its columns in rounds.parquet: names among the values that were measured."""
    measure: Callable[[Mapping[str, torch.Tensor]], dict[str, float]] | None = None
    """Measures its signal on an admitted delta; None: another part of the system does."""
    compare: Compare | None = None
    """Judges the clients of a round by each other, once the other levels have given each of them a weight."""
    wants_shadow: Callable[[DefenseConfig, Trust, str], bool] | None = None
    """Whether a client has to train a shadow in its next round; None: never."""
    is_banned: Callable[[Trust, str], bool] | None = None
    """Whether the level has frozen a client as malicious, so that `min_weight` does not apply; None: never."""
