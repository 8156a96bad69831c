"""Defense levels: from the evidence on a client to its weight in [0, 1].

Every level has a file of its own, with its settings and columns, and one line in the table `LEVELS`. It is a function
`weigh(trust, evidence) -> (weights, trust)`, or a value with a bound that follows from the server's reference clients. A
composition gives each client the least weight of its levels. Levels that compare clients judge last: they see the clients
whose weight is above 0. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from defense.bounds import Bound
from defense.levels import canary, client, consensus, evidence, fltrust, live, none, shadow, spectrum, step, utility, zeno
from defense.levels.level import Exclusion, Level, Trust, Verdict
from defense.signals import PROBED, ClientSignals, Measured, Signal, Unasked

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
    "utility": utility.LEVEL,
    "consensus": consensus.LEVEL,
    "spectrum": spectrum.LEVEL,
}
SIGNAL_COLUMNS: tuple[str, ...] = tuple(column for level in LEVELS.values() for column in level.columns)
"""What the levels measure for rounds.parquet, in order."""
TRUST_COLUMNS: Mapping[str, str] = {f"trust_{name}": name for name, level in LEVELS.items() if level.trusts is not None}
"""Column of rounds.parquet -> the level whose trust in the client it holds."""


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


def weigh(config: DefenseConfig, trust: Trust, evidence: Sequence[ClientSignals], bounds: Mapping[str, Bound]) -> Verdict:
    """Judge each client by itself.

    Args:
        trust: Level name -> trust of that level.
        bounds: Level name -> its bound in this round, of every level that has one (`defense/level_bounds.py`).
    """
    weights, new = {item.client_id: 1.0 for item in evidence}, dict(trust)
    exclusions: dict[str, Exclusion] = {}
    for name, level in chosen(config).items():
        if level.compare is not None:
            continue
        items = evidence if level.reads is None else [item.by_signal[level.reads] for item in evidence]
        judged: dict[str, float] = {}
        if level.bounded is not None:
            asked = [item for item in items if not isinstance(item, Unasked)]
            if level.judged is not None:
                judged, new[name] = level.judged(
                    config, trust.get(name, {}), [item for item in asked if isinstance(item, Measured)]
                )
            else:
                judged = {item.client_id: level.bounded.value(item) for item in asked}
            own = {item.client_id: 1.0 for item in items} | level.bounded.weigh(config, bounds[name], judged)
        elif level.bind is not None:
            own, new[name] = level.bind(config)(trust.get(name, {}), items)
        else:
            raise TypeError(f"level {name} neither binds, nor has a bound, nor compares")
        weights = {client_id: min(weight, own[client_id]) for client_id, weight in weights.items()}
        exclusions = level.excluded(name, own, judged, bounds.get(name)) | exclusions
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
        exclusions = level.excluded(name, found.weights, found.judged, bounds[name]) | exclusions
    return Verdict(weights=weights, trust=new, exclusions=exclusions, values=values)


def wants_shadow(config: DefenseConfig, trust: Trust, client_id: str) -> bool:
    """Whether the client has to train a shadow in its next round."""
    levels = chosen(config).items()
    return any(level.wants_shadow(config, trust.get(name, {}), client_id) for name, level in levels if level.wants_shadow)


def trust_in(config: DefenseConfig, trust: Trust, client_id: str) -> dict[str, float | None]:
    """What each level with a memory remembers of the client, by column; None where it does not know the client."""
    found: dict[str, float | None] = {}
    for column, name in TRUST_COLUMNS.items():
        if name in config.levels and (trusts := LEVELS[name].trusts) is not None:
            found[column] = trusts(trust.get(name, {}), client_id)
    return found


def is_banned(config: DefenseConfig, trust: Trust, client_id: str) -> bool:
    """Whether a level has frozen the client as malicious, so that `min_weight` does not apply."""
    return any(
        level.is_banned(trust.get(name, {}), client_id) for name, level in chosen(config).items() if level.is_banned is not None
    )
