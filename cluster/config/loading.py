"""From a YAML file and `key=value` overrides to a RunConfig; errors name the key and the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from actors.config import Recipe
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

EMBEDDED = Path(__file__).parents[1] / "configs" / "embedded.yaml"

Document = dict[str, object]
"""Keys and values as YAML has them; a section is a document again."""


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration; without a path the shipped `embedded.yaml`.

    Relative paths inside a file are relative to the working directory.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or inconsistent values.
    """
    return validate(with_overrides(read_mapping(Path(path or EMBEDDED)), overrides))


def with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document, changed in place by each `key=value`; raises ConfigError on an override that cannot be read."""
    for override in overrides:
        _set(document, *_parse_override(override))
    return document


def validate(document: Mapping[str, object]) -> RunConfig:
    """A RunConfig from plain data; raises ConfigError with one line per fault."""
    try:
        return RunConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from error


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def known_keys() -> list[str]:
    """Every dotted key, in order of declaration."""
    return list(flat_values(RunConfig()))


def read_mapping(path: Path) -> Document:
    """Keys and values of a YAML file; raises ConfigError when it holds something else."""
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist")
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"configuration file {path} should hold keys and values, not {type(document).__name__}")
    return document


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """`[CONFIG] [key=value ...]` as a path (or None) and the overrides."""
    paths = [argument for argument in arguments if "=" not in argument]
    if len(paths) > 1:
        raise ConfigError(f"one configuration file at most, got {paths}; overrides have the form key=value")
    return (Path(paths[0]) if paths else None), [argument for argument in arguments if "=" in argument]


def describe_keys() -> Iterable[str]:
    """Every key with the paper's default and the embedded world's value where it differs."""
    embedded = flat_values(load_config(None))
    for key, default in flat_values(RunConfig()).items():
        yield f"{key} = {default}" + (f"   (embedded world: {embedded[key]})" if embedded[key] != default else "")


def flat_values(config: BaseModel, prefix: str = "") -> dict[str, object]:
    """Dotted key -> its value as JSON has it, in order of declaration."""
    return dict(_leaves(config.model_dump(mode="json"), prefix))


def _leaves(section: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _parse_override(text: str) -> tuple[list[str], object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not of the form key=value")
    try:
        return key.split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: the value {value!r} is not YAML: {error}") from error


def _set(document: Document, key: Sequence[str], value: object) -> None:
    *parents, last = key
    for parent in parents:
        child = document.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(key)}: {parent} is a value, not a section")
        document = child
    document[last] = value


def _explain(fault: ErrorDetails) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section = key.rpartition(".")[0]
        of_recipe = [f"{section}.{name}" for name in Recipe.model_fields] if section.startswith("clients.recipes.") else []
        near = difflib.get_close_matches(key, [*known_keys(), *of_recipe], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "; see `safe-fedllm keys` for all keys"
        return f"unknown key {key}{hint}"
    if fault["type"] == "value_error":
        message = str(fault.get("ctx", {}).get("error"))
        return f"{key}: {message}" if key else message
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r:.80}"
