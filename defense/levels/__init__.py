"""Defense levels: from the evidence on a client to its weight in [0, 1].

Every level has a file of its own, with its settings and columns, and one line in the table `LEVELS`. It is a function
`weigh(trust, evidence) -> (weights, trust)`, or a value with a bound that follows from the server's reference clients. A
composition gives each client the least weight of its levels. Levels that compare clients judge last: they see the clients
whose weight is above 0. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from defense.bounds import Bound, ReferenceValues, explicit_bound, reference_bound
from defense.levels import canary, client, consensus, evidence, fltrust, live, none, shadow, spectrum, step, zeno
from defense.levels.level import Bounded, Exclusion, Level, Trust, Verdict, Weights
from defense.signals import PROBED, ClientSignals, Signal

if TYPE_CHECKING:
    import torch

    from defense.config import DefenseConfig
    from defense.rules.round_updates import RoundUpdates

LEVELS: Mapping[str, Level] = {
    "none": none.LEVEL,
    "step": step.LEVEL,
    "client": client.LEVEL,
    "shadow": shadow.LEVEL,
    "evidence": evidence.LEVEL,
    "live": live.LEVEL,
    "canary": canary.LEVEL,
    "fltrust": fltrust.LEVEL,
    "zeno": zeno.LEVEL,
    "consensus": consensus.LEVEL,
    "spectrum": spectrum.LEVEL,
}
References = Mapping[str, ReferenceValues]
"""Column -> what was measured of reference clients."""
SIGNAL_COLUMNS: tuple[str, ...] = tuple(column for level in LEVELS.values() for column in level.columns)
"""What the levels add to rounds.parquet, in order."""


def chosen(config: DefenseConfig) -> dict[str, Level]:
    """The levels of `config.level`, by name."""
    return {name: LEVELS[name] for name in config.levels}


def signals_of(config: DefenseConfig) -> frozenset[Signal]:
    """The signals that the levels read."""
    return frozenset(level.reads for level in chosen(config).values() if level.reads is not None)


def probed_signals(config: DefenseConfig) -> frozenset[Signal]:
    """Those of them that the probe gives."""
    return signals_of(config) & PROBED


def compares(config: DefenseConfig) -> bool:
    """Whether a level judges clients by each other."""
    return any(level.compare for level in chosen(config).values())


def measure(config: DefenseConfig, delta: Mapping[str, torch.Tensor]) -> dict[Signal, dict[str, float]]:
    """What the levels measure on an admitted delta itself, by signal."""
    return {level.reads: level.measure(delta) for level in chosen(config).values() if level.measure and level.reads}


def bounded(config: DefenseConfig) -> dict[str, Bounded]:
    """The levels of `config.level` that a bound decides, by name."""
    return {name: level.bounded for name, level in chosen(config).items() if level.bounded is not None}


def unbounded_by_hand(config: DefenseConfig, threshold: float | None = None) -> dict[str, Bounded]:
    """Those of them whose bound no key sets, so that it takes reference clients; `threshold`: `probe.threshold`."""
    return {name: own for name, own in bounded(config).items() if own.by_hand(config, threshold) is None}


def referenced(config: DefenseConfig, threshold: float | None = None) -> frozenset[str]:
    """What reference clients have to be measured for: names of signals, and of columns."""
    own = unbounded_by_hand(config, threshold)
    return frozenset({*(bound.column for bound in own.values()), *filter(None, (LEVELS[name].reads for name in own))})


def bounds(config: DefenseConfig, references: References, threshold: float | None = None) -> dict[str, Bound]:
    """The bound of each level that has one, in one round.

    The share `config.false_positive_rate` of honest client-rounds is split evenly over them, so that together they exclude no
    more than it (Bonferroni).

    Args:
        references: What was measured of reference clients last, by column.
        threshold: `probe.threshold`.
    """
    found: dict[str, Bound] = {}
    for name, own in bounded(config).items():
        by_hand, values = own.by_hand(config, threshold), references.get(own.column)
        if by_hand is not None:
            found[name] = explicit_bound(by_hand, own.key, side=own.side, scale=own.scale)
        elif values is None:
            found[name] = Bound(state="missing", why=f"no reference client was measured and {own.key} is not set")
        else:
            found[name] = reference_bound(values, rate(config), side=own.side, scale=own.scale)
    return found


def rate(config: DefenseConfig) -> float:
    """The share of honest client-rounds that each bound may exclude."""
    return config.false_positive_rate / max(1, len(bounded(config)))


def reference_values(
    config: DefenseConfig, benign: Mapping[str, Sequence[float]], unsafe: Mapping[str, Sequence[float]], origin: str
) -> dict[str, ReferenceValues]:
    """Column -> values, of the levels that weigh by it; without those that give no bound.

    Args:
        benign: Column -> values of the honest reference clients, in order of client id; likewise `unsafe`.
        origin: Where they trained.
    """
    found: dict[str, ReferenceValues] = {}
    for own in bounded(config).values():
        if own.column in benign:
            others = own.unsafe(benign[own.column]) if own.unsafe else unsafe.get(own.column, ())
            found[own.column] = ReferenceValues(benign=tuple(benign[own.column]), unsafe=tuple(others), origin=origin)
    return {column: values for column, values in found.items() if values.fault is None}


def weigh(config: DefenseConfig, trust: Trust, evidence: Sequence[ClientSignals], bounds: Mapping[str, Bound]) -> Verdict:
    """Judge each client by itself.

    Args:
        trust: Level name -> trust of that level.
        bounds: Level name -> its bound in this round, of every level that has one.
    """
    weights, new = {item.client_id: 1.0 for item in evidence}, dict(trust)
    exclusions: dict[str, Exclusion] = {}
    for name, level in chosen(config).items():
        if level.compare is not None:
            continue
        items = evidence if level.reads is None else [item.by_signal[level.reads] for item in evidence]
        judged: dict[str, float] = {}
        if level.bounded is not None:
            judged = {item.client_id: level.bounded.value(item) for item in items}
            own = _within(config, level.bounded, bounds[name], judged)
        elif level.bind is not None:
            own, new[name] = level.bind(config)(trust.get(name, {}), items)
        else:
            raise TypeError(f"level {name} neither binds, nor has a bound, nor compares")
        weights = {client_id: min(weight, own[client_id]) for client_id, weight in weights.items()}
        exclusions = _excluded(name, level, own, judged, bounds.get(name)) | exclusions
    return Verdict(weights=weights, trust=new, exclusions=exclusions)


def compare(config: DefenseConfig, trust: Trust, updates: RoundUpdates, bounds: Mapping[str, Bound]) -> Verdict:
    """Judge the clients of a round by each other.

    Args:
        trust: Level name -> trust of that level.
        updates: Those of a weight above 0.
        bounds: As in `weigh`.
    """
    weights, new = {item.client_id: item.weight for item in updates.updates}, dict(trust)
    values: dict[str, dict[str, float]] = {client_id: {} for client_id in weights}
    exclusions: dict[str, Exclusion] = {}
    for name, level in chosen(config).items():
        if level.compare is None:
            continue
        found = level.compare(config, trust.get(name, {}), updates, bounds[name])
        new[name] = found.trust
        weights = {client_id: min(weight, found.weights[client_id]) for client_id, weight in weights.items()}
        values = {client_id: {**own, **found.values[client_id]} for client_id, own in values.items()}
        exclusions = _excluded(name, level, found.weights, found.judged, bounds[name]) | exclusions
    return Verdict(weights=weights, trust=new, exclusions=exclusions, values=values)


def _within(config: DefenseConfig, own: Bounded, bound: Bound, judged: Mapping[str, float]) -> Weights:
    """w = 0 at or beyond the bound and for NaN, else 1, or by the level's curve; 1 where it abstains, 0 where it is missing."""
    curve = own.curve(config) if own.curve else None
    if curve is not None and bound.limit is not None and bound.state == "in force":
        return {client_id: curve(value, bound.limit) for client_id, value in judged.items()}
    return {client_id: 0.0 if bound.excludes(value) else 1.0 for client_id, value in judged.items()}


def _excluded(
    name: str, level: Level, weights: Weights, judged: Mapping[str, float], bound: Bound | None
) -> dict[str, Exclusion]:
    """Why each client of weight 0 has none."""
    found: dict[str, Exclusion] = {}
    for client_id in (client_id for client_id, weight in weights.items() if weight == 0):
        if level.bounded is None or bound is None or client_id not in judged:
            found[client_id] = Exclusion(level=name, because=f"level {name} gives it no weight")
            continue
        value = judged[client_id]
        because = bound.sentence(level.bounded.title or level.bounded.column, value)
        found[client_id] = Exclusion(level=name, because=because, value=value, bound=bound.limit)
    return found


def wants_shadow(config: DefenseConfig, trust: Trust, client_id: str) -> bool:
    """Whether the client has to train a shadow in its next round."""
    levels = chosen(config).items()
    return any(level.wants_shadow(config, trust.get(name, {}), client_id) for name, level in levels if level.wants_shadow)


def is_banned(config: DefenseConfig, trust: Trust, client_id: str) -> bool:
    """Whether a level has frozen the client as malicious, so that `min_weight` does not apply."""
    return any(
        level.is_banned(trust.get(name, {}), client_id) for name, level in chosen(config).items() if level.is_banned is not None
    )
