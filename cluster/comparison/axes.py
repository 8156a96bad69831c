"""The axes of a comparison and the cells that they span, each with its configuration. No torch and no Ray here."""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from cluster.comparison.fingerprints import config_hash
from cluster.config.loading import validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.config import RuleName

AXES = {
    "defenses": "defense.level",
    "rules": "aggregation.rule",
    "attacks": "clients.attack",
    "malicious": "clients.malicious",
    "worlds": "world.seed",
    "seeds": "seed",
}
"""Axis on the command line -> the key it varies, in the order in which a cell's label names them."""
_LABELS = {"defenses": "{}", "rules": "rule {}", "attacks": "attack {}", "malicious": "{} malicious"} | {
    "worlds": "world {}",
    "seeds": "seed {}",
}
_COUNTED = ("malicious", "worlds", "seeds")
BASELINES = {"oracle": ("clients.exclude_malicious", True), "realignment": ("realignment.steps", 15)}
"""Among the defenses, beside the levels: name -> its key, and the value where the configuration sets none. `oracle` never lets
the attackers take part; `realignment` repairs the final adapter. Alone they mean level none."""
_DERIVED = ("aggregation.f", *(key for key, _ in BASELINES.values()))
"""Keys that the axes set where the configuration does not."""
_ASSUMED_PERCENT = 30
"""Attackers that rules assume among the clients of a round, whatever the cell's malicious count: 3 of 10 (CONTRACT.md)."""
_LONGEST_NAME = 100

Axes = Mapping[str, Sequence[str]]
"""Axis -> its values as texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the matrix."""

    label: str
    """Its place on every axis: `shadow, 3 malicious, seed 0`."""
    group: str
    """The label without the seed; cells of a group are averaged."""
    name: str
    """Its directory, which depends on the label alone."""
    config: RunConfig
    protocol: str
    """Hash of what the table's own columns do not say: of the configuration without the axes. All cells share it."""


def split_axes(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Take the axes out of the arguments: ({"defenses": ["none", "shadow"]}, the rest). Ranges are written out."""
    axes: dict[str, list[str]] = {}
    for argument in arguments:
        name, _, values = argument.partition("=")
        if name in AXES and name in axes:
            raise ConfigError(f"{name}= is given twice; write {name}=a,b")
        if name in AXES:
            axes[name] = _values(name, values)
    if not axes:
        raise ConfigError(f"compare needs an axis: {', '.join(f'{name}=a,b' for name in AXES)}")
    rest = [argument for argument in arguments if argument.partition("=")[0] not in AXES]
    return {name: axes[name] for name in AXES if name in axes}, rest


def _values(axis: str, text: str) -> list[str]:
    """`0-2,5` of a counted axis is 0, 1, 2, 5; every value once."""
    values: list[str] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)-(\d+)", part) if axis in _COUNTED else None
        values += map(str, range(int(span[1]), int(span[2]) + 1)) if span else [part]
    if not values or not all(values):
        raise ConfigError(f"{axis}={text}: a value is missing; write {axis}=a,b" + (" or 0-9" if axis in _COUNTED else ""))
    return list(dict.fromkeys(values))


def plan_cells(document: Mapping[str, Any], axes: Axes) -> list[Cell]:
    """Every cell of the matrix, the seed varying fastest. Attacks that nobody makes are no axis: those of no attackers.

    Args:
        document: The configuration that all share, as plain data.
        axes: Of `split_axes`.

    Raises:
        ConfigError: cells that cannot run, all of them, each with its faults.
    """
    _check_baselines(document, axes)
    cells, faults = [], {}
    places = [_told_apart(document, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    for label, place in {_label(place): place for place in places}.items():
        try:
            cells.append(_cell(document, place, label))
        except ConfigError as error:
            faults[label] = str(error)
    if faults:
        raise ConfigError(tell_faults(faults, len(cells) + len(faults)))
    return cells


def _check_baselines(document: Mapping[str, Any], axes: Axes) -> None:
    """A value of the axis says all of a defense, so what no value names would be dropped without a word."""
    named = {part for value in axes.get("defenses", ()) for part in value.partition(":")[0].split("+")}
    for name, (key, _) in BASELINES.items():
        if "defenses" in axes and name not in named and _given(document, key):
            raise ConfigError(
                f"{key}={_given(document, key)} holds for the defenses that name {name}: write defenses={name}, LEVEL+{name} "
                "or both, or leave it out"
            )


def _told_apart(document: Mapping[str, Any], place: Mapping[str, str]) -> dict[str, str]:
    """The place without the attack where it makes no difference: no attacker takes part."""
    none_there = str(place.get("malicious", _given(document, "clients.malicious") or 0)) == "0"
    excluded = "oracle" in place.get("defenses", "").partition(":")[0].split("+")
    rest = {axis: value for axis, value in place.items() if axis != "attacks"}
    return rest if rest and (none_there or excluded) else dict(place)


def _given(document: Mapping[str, Any], key: str) -> Any:
    """What the configuration itself says of a key; None: nothing."""
    section, _, name = key.partition(".")
    values = document.get(section)
    return values.get(name) if isinstance(values, Mapping) else None


def tell_faults(faults: Mapping[str, str], num_cells: int) -> str:
    """One text from `label -> fault`; a fault that every cell has is told once."""
    if len(faults) == num_cells and len(set(faults.values())) == 1:
        return f"in every cell: {next(iter(faults.values()))}"
    lines = [f"{label}: {line}" for label, fault in faults.items() for line in fault.splitlines()]
    return "\n".join([f"{len(faults)} of {num_cells} cells cannot run, nothing was started", *lines])


def _cell(document: Mapping[str, Any], place: Mapping[str, str], label: str) -> Cell:
    keys = [key for axis, value in place.items() for key in _keys(axis, value, place, document)]
    config = validate(_with_attackers(with_overrides(copy.deepcopy(dict(document)), keys)))
    if "worlds" in place and not config.is_embedded:
        raise ConfigError(f"worlds= varies the embedded world, and model.path={config.model.path} is another model")
    name = directory_name(label)
    if config.name is not None:  # several may be live at once
        config = config.model_copy(update={"name": f"{config.name}.{name}".replace("+", "-")})
    group = _label({axis: value for axis, value in place.items() if axis != "seeds"})
    protocol = config_hash(config, ignored=tuple(AXES.values()), instead={key: _given(document, key) for key in _DERIVED})
    return Cell(label=label, group=group or defense_of(config), name=name, config=config, protocol=protocol)


def defense_of(config: RunConfig) -> str:
    """A run's defense as the axis names it, without a rule: its level and the baselines that are on."""
    on = {"oracle": config.clients.exclude_malicious, "realignment": config.realignment.steps > 0}
    names = [name for name in BASELINES if on[name]]
    return "+".join(names if names and config.defense.level == "none" else [config.defense.level, *names])


def _label(place: Mapping[str, str]) -> str:
    return ", ".join(_LABELS[axis].format(value) for axis, value in place.items())


def _keys(axis: str, value: str, place: Mapping[str, str], document: Mapping[str, Any]) -> list[str]:
    """The overrides of one value: `krum` among the defenses is the rule without a level, `shadow:krum` is both."""
    if axis != "defenses":
        return [f"{AXES[axis]}={value}"]
    level, colon, rule = value.partition(":")
    if value in get_args(RuleName):
        level, colon, rule = "none", ":", value
    if colon and "rules" in place:
        raise ConfigError(f"defenses={value} names the rule {rule}, and rules= is an axis too; leave one out")
    return [*_defense_keys(level.split("+"), document), *([f"aggregation.rule={rule}"] if colon else [])]


def _defense_keys(parts: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    """`live+canary+realignment` is two levels and a baseline; baselines that are not named are off."""
    levels = [part for part in parts if part not in BASELINES]
    keys = [f"defense.level={'+'.join(levels) or 'none'}"]
    for name, (key, usual) in BASELINES.items():
        value = (_given(document, key) or usual) if name in parts else type(usual)()
        keys.append(f"{key}={value}")
    return keys


def _with_attackers(document: dict[str, Any]) -> dict[str, Any]:
    """The document with `aggregation.f` where a rule needs it and it is not given: what the rule bears, at most 30 %."""
    section = document.get("aggregation") or {}
    if not isinstance(section, dict) or section.get("f") is not None:
        return document
    config = validate({**document, "aggregation": {**section, "f": 0}})
    clients = config.clients.clients_per_round
    wished = config.aggregation.model_copy(update={"f": clients * _ASSUMED_PERCENT // 100})
    return {**document, "aggregation": {**section, "f": wished.assumed_attackers(clients)}}


def directory_name(label: str) -> str:
    """`shadow, seed 0` is shadow_seed-0; a label with unusual characters gets a few digits of its hash."""
    name = re.sub(r"[^A-Za-z0-9_.+-]", "-", label.replace(", ", "_"))
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ,:+_.-]*", label) and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME].lstrip('.')}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
