"""What a level is: a function from evidence to weights, and what belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from defense.bounds import PLAIN, Bound, HalfWay, Scale, Side
from defense.signals import ClientSignals, Measured, Observation, ProbeEvidence, Signal

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
    judged: Mapping[str, float] = field(default_factory=dict)
    """Client id -> the value that was held against the level's bound."""


Compare = Callable[["DefenseConfig", Trust, "RoundUpdates", Bound], Comparison]
"""From trust, all updates with a weight above 0 and the level's bound to a verdict on each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """A value of an update, and how its bound follows from the server's reference clients (`defense/bounds.py`).

    A client weighs 0 where its value lies at or beyond the bound, else 1.
    """

    column: str
    """The value's column in rounds.parquet."""
    title: str | None = None
    """What sentences call it, where that is not the column."""
    key: str
    """The key that sets the bound by hand."""
    by_hand: Callable[[DefenseConfig, float | None], float | None]
    """What it says, from the defense's settings and `probe.threshold`; None: the reference clients give the bound."""
    side: Side = "above"
    """On which side of the bound a client is excluded."""
    scale: Scale = PLAIN
    """Where honest values are taken to be normal."""
    unsafe: Callable[[Sequence[float]], Sequence[float]] | None = None
    """The values that should lie beyond the bound, from those of the honest references; None: those of the unsafe ones."""
    half_way: HalfWay | None = "from median"
    """From where the bound lies half way to these (`defense.bounds.reference_bound`)."""
    least: float | None = None
    """The least bound of values that were fitted to the references; None: any."""
    curve: Callable[[DefenseConfig], Callable[[float, float], float] | None] | None = None
    """A weight from value and bound where settings ask for one in place of 0 or 1."""

    def weigh(self, config: DefenseConfig, bound: Bound, judged: Mapping[str, float]) -> Weights:
        """w = 0 at or beyond the bound, else 1, or by the curve; 1 where the level abstains, 0 where it has no bound or no value.

        Args:
            judged: Client id -> value.
        """
        curve = self.curve(config) if self.curve else None
        if curve is not None and bound.limit is not None and bound.state == "in force":
            return {client_id: curve(value, bound.limit) for client_id, value in judged.items()}
        return {client_id: 0.0 if bound.excludes(value) else 1.0 for client_id, value in judged.items()}

    def value(self, item: Observation | ClientSignals) -> float:
        """The value of one client; raises TypeError for an observation that has none."""
        if isinstance(item, ProbeEvidence):
            return item.last_probability
        if isinstance(item, Measured):
            return item.values[self.column]
        raise TypeError(f"a {type(item).__name__} of {item.client_id} has no {self.column}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Why a level gives a client no weight."""

    level: str
    because: str
    """One sentence."""
    value: float | None = None
    """What was held against the bound; None at a level without one."""
    bound: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the levels of a composition say of a round's clients."""

    weights: Weights
    """The least that any level gives."""
    trust: Trust
    """Level name -> trust of that level."""
    exclusions: Mapping[str, Exclusion]
    """Client id -> the first level that gives it 0, in order of the composition."""
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Client id -> what levels measured as they compared the clients, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level; `defense/levels/__init__.py` has the table of them."""

    bind: Callable[[DefenseConfig], Weigh] | None = None
    """The level with its settings; None for a level that weighs by a bound, or compares clients."""
    bounded: Bounded | None = None
    """The value and the bound that decide; None: no bound does."""
    judged: Callable[[DefenseConfig, Trust, Sequence[Measured]], tuple[dict[str, float], Trust]] | None = None
    """What is held against the bound, by client id, and new trust, from trust and what was measured; None: the value itself."""
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
    trusts: Callable[[Trust, str], float | None] | None = None
    """What it remembers of a client in one number, None of one that it does not know; None at a level without a memory."""

    def excluded(self, name: str, weights: Weights, judged: Mapping[str, float], bound: Bound | None) -> dict[str, Exclusion]:
        """Why each client of weight 0 has none.

        Args:
            name: The level's.
            judged: Client id -> what was held against the bound; empty at a level without one.
        """
        found: dict[str, Exclusion] = {}
        for client_id, weight in weights.items():
            if weight > 0:
                continue
            if self.bounded is None or bound is None or client_id not in judged:
                found[client_id] = Exclusion(level=name, because=f"level {name} gives it no weight")
                continue
            value = judged[client_id]
            because = bound.sentence(self.bounded.title or self.bounded.column, value)
            found[client_id] = Exclusion(level=name, because=because, value=value, bound=bound.limit)
        return found
