"""The cells of a comparison: one run for every combination of values on the axes. No torch and no Ray here."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from cluster.config.loading import Document, flat_values, validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.rules import RULES

AXES = {
    "defenses": "defense.level",
    "rules": "aggregation.rule",
    "attacks": "clients.attack",
    "malicious": "clients.malicious",
    "worlds": "world.seed",
    "seeds": "seed",
}
"""Axis on the command line -> the key that it varies, in the order in which a cell's label names them."""
_NUMBERED = ("malicious", "worlds", "seeds")
_LABELS = dict(zip(AXES, ("{}", "rule {}", "attack {}", "{} malicious", "world {}", "seed {}"), strict=True))
_BASELINES: dict[str, tuple[str, bool | int]] = {
    "oracle": ("clients.exclude_malicious", True),
    "realignment": ("realignment.steps", 15),
}
"""Among the defenses, beside the levels: name -> its key, and the value where the configuration sets none. `oracle` excludes the
attackers from every round; `realignment` repairs the final adapter. Without a level they mean level none."""
_DERIVED = ("aggregation.f", *(key for key, _ in _BASELINES.values()))
"""Keys that the axes set where the configuration does not."""
_WITHOUT_EFFECT = ("name", "cluster.", "checkpoint.keep", "checkpoint.every")
"""Keys, or sections with a dot, that change no result: a cell may be resumed with other values."""
_ASSUMED_PERCENT = 30
"""Attackers that rules assume among the clients of a round, whatever the cell's malicious count: 3 of 10, as in the paper."""
_LONGEST_NAME = 100
_HASH_DIGITS = 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
    """Hash of the settings that no column of the tables shows: of the configuration without the axes. All cells share it."""


def split_axes(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Take the axes out of the arguments: ({"defenses": ["none", "shadow"]}, the rest). Ranges are expanded."""
    axes: dict[str, list[str]] = {}
    rest = []
    for argument in arguments:
        name, _, values = argument.partition("=")
        if name not in AXES:
            rest.append(argument)
        elif name in axes:
            raise ConfigError(f"{name}= is given twice; write {name}=a,b")
        else:
            axes[name] = _values(name, values)
    if not axes:
        raise ConfigError(f"compare needs an axis: {', '.join(f'{name}=a,b' for name in AXES)}")
    return {name: axes[name] for name in AXES if name in axes}, rest


def _values(axis: str, text: str) -> list[str]:
    """`0-2,5` of a numbered axis is 0, 1, 2, 5; every value once."""
    values: list[str] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)-(\d+)", part) if axis in _NUMBERED else None
        values += map(str, range(int(span[1]), int(span[2]) + 1)) if span else [part]
    if not values or not all(values):
        raise ConfigError(f"{axis}={text}: a value is missing; write {axis}=a,b" + (" or 0-9" if axis in _NUMBERED else ""))
    return list(dict.fromkeys(values))


def plan_cells(document: Document, axes: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Every cell of the matrix, the seed varying fastest. Without attackers the attack is no axis.

    Args:
        document: The configuration that all cells share, as plain data.
        axes: Of `split_axes`.

    Raises:
        ConfigError: some cells cannot run; names all of them, each with its faults.
    """
    _check_baselines(document, axes)
    combinations = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    choices = [_without_idle_attack(document, choice) for choice in combinations]
    return for_each_cell({_label(choice): choice for choice in choices}, lambda choice: _cell(document, choice))


def for_each_cell(cells: Mapping[str, _Item], work: Callable[[_Item], _Result]) -> list[_Result]:
    """What `work` returns for each label's item.

    Raises:
        ConfigError: `work` raised one for some cells; names all of them. A fault that every cell has is listed once.
    """
    results, faults = [], {}
    for label, item in cells.items():
        try:
            results.append(work(item))
        except ConfigError as error:
            faults[label] = str(error)
    if not faults:
        return results
    if not results and len(set(faults.values())) == 1:
        raise ConfigError(f"in every cell: {next(iter(faults.values()))}")
    lines = [f"{label}: {line}" for label, fault in faults.items() for line in fault.splitlines()]
    raise ConfigError("\n".join([f"{len(faults)} of {len(cells)} cells cannot run, nothing was started", *lines]))


def defense_of(config: RunConfig) -> str:
    """A run's defense as the axis names it, without a rule: its level and the baselines that are on."""
    names = [name for name, (key, _) in _BASELINES.items() if attrgetter(key)(config)]
    return "+".join(names if names and config.defense.level == "none" else [config.defense.level, *names])


def directory_name(label: str) -> str:
    """`shadow, seed 0` is shadow_seed-0; a label with unusual characters gets a few digits of its hash."""
    name = re.sub(r"[^A-Za-z0-9_.+-]", "-", label.replace(", ", "_"))
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ,:+_.-]*", label) and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME].lstrip('.')}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def differences(stored: RunConfig, asked: RunConfig) -> list[str]:
    """`rounds=10, asked is 12` for every key that differs and changes a result."""
    old, new = flat_values(stored), flat_values(asked)
    changed = [key for key in old | new if old.get(key) != new.get(key) and not _is_among(key, _WITHOUT_EFFECT)]
    return [f"{key}={old.get(key)}, asked is {new.get(key)}" for key in changed]


def config_hash(config: RunConfig) -> str:
    """16 hexadecimal digits of all values that change a result, but the seed."""
    return _hash(flat_values(config), ["seed"])


def _hash(values: Mapping[str, object], ignored: Collection[str]) -> str:
    left_out = (*_WITHOUT_EFFECT, "checkpoint.path", *ignored)
    matters = {key: value for key, value in values.items() if not _is_among(key, left_out)}
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()[:_HASH_DIGITS]


def _is_among(key: str, keys: Sequence[str]) -> bool:
    return any(key.startswith(other) if other.endswith(".") else key == other for other in keys)


def _check_baselines(document: Document, axes: Mapping[str, Sequence[str]]) -> None:
    """A value of the axis `defenses` sets all baselines, so a baseline that the configuration sets would be lost silently."""
    named = {part for value in axes.get("defenses", ()) for part in _parts(value)}
    for name, (key, _) in _BASELINES.items():
        if "defenses" in axes and name not in named and _given(document, key):
            raise ConfigError(
                f"{key}={_given(document, key)} holds for the defenses that name {name}: write defenses={name}, LEVEL+{name} "
                "or both, or leave it out"
            )


def _parts(defense: str) -> list[str]:
    """`live+canary+realignment:krum` has two levels and a baseline."""
    return defense.partition(":")[0].split("+")


def _without_idle_attack(document: Document, choice: Mapping[str, str]) -> Mapping[str, str]:
    """The choice without the attack where no attacker takes part, so that no two cells differ in it alone."""
    none_there = str(choice.get("malicious", _given(document, "clients.malicious") or 0)) == "0"
    rest = {axis: value for axis, value in choice.items() if axis != "attacks"}
    return rest if rest and (none_there or "oracle" in _parts(choice.get("defenses", ""))) else choice


def _given(document: Document, key: str) -> object:
    """The configuration's own value of a key; None: it sets none."""
    section, _, name = key.partition(".")
    values = document.get(section)
    return values.get(name) if isinstance(values, dict) else None


def _cell(document: Document, choice: Mapping[str, str]) -> Cell:
    """The cell of a choice: axis -> value, as on the command line."""
    keys = _defense_keys(document, choice) + [f"{AXES[axis]}={value}" for axis, value in choice.items() if axis != "defenses"]
    config = validate(_with_assumed_attackers(with_overrides(copy.deepcopy(document), keys)))
    if "worlds" in choice and not config.is_embedded:
        raise ConfigError(f"worlds= varies the embedded world, and model.path={config.model.path} is another model")
    label, group = _label(choice), _label({axis: value for axis, value in choice.items() if axis != "seeds"})
    name = directory_name(label)
    if config.name is not None:  # Several cells may be live at once.
        config = config.model_copy(update={"name": f"{config.name}.{name}".replace("+", "-")})
    protocol = _hash(flat_values(config) | {key: _given(document, key) for key in _DERIVED}, AXES.values())
    return Cell(label=label, group=group or defense_of(config), name=name, config=config, protocol=protocol)


def _label(choice: Mapping[str, str]) -> str:
    return ", ".join(_LABELS[axis].format(value) for axis, value in choice.items())


def _defense_keys(document: Document, choice: Mapping[str, str]) -> list[str]:
    """The overrides of a defense, which turns the other baselines off. `krum` is the rule without a level, `shadow:krum` both."""
    if (value := choice.get("defenses")) is None:
        return []
    level, colon, rule = ("none", ":", value) if value in RULES else value.partition(":")
    if colon and "rules" in choice:
        raise ConfigError(f"defenses={value} names the rule {rule}, and rules= is an axis too; leave one out")
    parts = _parts(level)
    levels = [part for part in parts if part not in _BASELINES]
    keys = [f"defense.level={'+'.join(levels) or 'none'}", *([f"aggregation.rule={rule}"] if colon else [])]
    for name, (key, usual) in _BASELINES.items():
        keys.append(f"{key}={(_given(document, key) or usual) if name in parts else type(usual)()}")
    return keys


def _with_assumed_attackers(document: Document) -> Document:
    """The document with `aggregation.f` where a rule needs it and it is not set: what the rule tolerates, at most 30 %."""
    section = document.get("aggregation") or {}
    if not isinstance(section, dict) or section.get("f") is not None:
        return document
    config = validate({**document, "aggregation": {**section, "f": 0}})
    clients = config.clients.clients_per_round
    wished = config.aggregation.model_copy(update={"f": clients * _ASSUMED_PERCENT // 100})
    return {**document, "aggregation": {**section, "f": wished.assumed_attackers(clients)}}
