"""The bounds of a composition of levels in one round, and what reference clients have to be measured for. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from defense.bounds import Bound, ReferenceValues, explicit_bound, reference_bound
from defense.config import DefenseConfig
from defense.levels import LEVELS, chosen
from defense.levels.level import Bounded

References = Mapping[str, ReferenceValues]
"""Column -> what was measured of reference clients."""


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


def unmeasured(config: DefenseConfig, references: References, threshold: float | None = None) -> list[str]:
    """Columns of which a bound, or a doubt about the probe's scores, needs to know reference clients and does not; sorted."""
    probed = {own.column for name, own in bounded(config).items() if LEVELS[name].reads == "update"}
    wanted = {own.column for own in unbounded_by_hand(config, threshold).values()} | probed
    return sorted(wanted - set(references))


def level_bounds(config: DefenseConfig, references: References, threshold: float | None = None) -> dict[str, Bound]:
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
            found[name] = reference_bound(
                values, rate(config), side=own.side, scale=own.scale, half_way=own.half_way, least=own.least
            )
    return found


def rate(config: DefenseConfig) -> float:
    """The share of honest client-rounds that each bound may exclude."""
    return config.false_positive_rate / max(1, len(bounded(config)))


def reference_values(
    config: DefenseConfig,
    benign: Mapping[str, Sequence[float]],
    unsafe: Mapping[str, Sequence[float]],
    origin: str,
    fitted: Collection[str] = (),
) -> dict[str, ReferenceValues]:
    """Column -> values, of the levels that weigh by it; without those that give no bound.

    Args:
        benign: Column -> values of the honest reference clients, in order of client id; likewise `unsafe`.
        origin: Where they trained.
        fitted: Columns whose values come from something that was fitted to these clients.
    """
    found: dict[str, ReferenceValues] = {}
    for own in bounded(config).values():
        if own.column in benign:
            others = own.unsafe(benign[own.column]) if own.unsafe else unsafe.get(own.column, ())
            found[own.column] = ReferenceValues(
                benign=tuple(benign[own.column]), unsafe=tuple(others), origin=origin, fitted=own.column in fitted
            )
    return {column: values for column, values in found.items() if values.fault is None}
