"""From a YAML file and `key=value` overrides to a RunConfig, with errors that name the key and the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

EMBEDDED = Path(__file__).parents[1] / "configs" / "embedded.yaml"


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration; without a path the shipped `embedded.yaml`.

    Relative paths inside a file are relative to the working directory.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or inconsistent values.
    """
    return validate(with_overrides(read_mapping(Path(path or EMBEDDED)), overrides))


def with_overrides(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The document with each `key=value` set in it; raises ConfigError on an override that cannot be read."""
    for override in overrides:
        _set(document, *_parse_override(override))
    return document


def validate(document: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain data; raises ConfigError with one line per fault."""
    try:
        return RunConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from error


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterable[str]:
    """Every dotted key, in order of declaration."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def read_mapping(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; raises ConfigError when it is none."""
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist")
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"configuration file {path} should hold keys and values, not {type(document).__name__}")
    return document


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not of the form key=value")
    try:
        return key.split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: the value {value!r} is not YAML: {error}") from error


def _set(document: dict[str, Any], key: list[str], value: Any) -> None:
    *parents, last = key
    for parent in parents:
        child = document.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(key)}: {parent} is a value, not a section")
        document = child
    document[last] = value


def _explain(fault: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, [*known_keys(), *_keys_of_item(fault["loc"])], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "; see `safe-fedllm keys` for all keys"
        return f"unknown key {key}{hint}"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{key}: {message}" if key else message
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r:.80}"


def _keys_of_item(place: Sequence[str | int]) -> Iterable[str]:
    """Known keys of the item of a list in which an unknown one stands; none where it stands in no list."""
    if not any(isinstance(part, int) for part in place):
        return ()
    model: Any = RunConfig
    for part in place[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(iter(get_args(annotation)), annotation)
    return known_keys(model, "".join(f"{part}." for part in place[:-1]))


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """`[CONFIG] [key=value ...]` as a path (or None) and the overrides."""
    paths = [argument for argument in arguments if "=" not in argument]
    if len(paths) > 1:
        raise ConfigError(f"one configuration file at most, got {paths}; overrides have the form key=value")
    return (Path(paths[0]) if paths else None), [argument for argument in arguments if "=" in argument]


def describe_keys() -> Iterable[str]:
    """Every key with the paper's default and the embedded world's value where it differs."""
    paper, embedded = RunConfig().model_dump(mode="json"), load_config(None).model_dump(mode="json")
    for key in known_keys():
        default, value = _get(paper, key), _get(embedded, key)
        yield f"{key} = {default}" + (f"   (embedded world: {value})" if value != default else "")


def _get(document: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        document = document[part]
    return document
