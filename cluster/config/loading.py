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
from cluster.config.yaml_text import YamlError, kinds_of, read_scalar, read_yaml
from cluster.errors import ConfigError

EMBEDDED = Path(__file__).parents[1] / "configs" / "embedded.yaml"

_MOST_BYTES = 1_000_000

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
    what = f"configuration file {path}"
    try:
        document = read_yaml(_text(path, what), frozenset({RunConfig}))
    except YamlError as error:
        raise ConfigError(f"{what} cannot be read as YAML: {error}") from error
    if document is None:
        raise ConfigError(f"{what} is empty; it should hold keys and values, such as rounds: 3")
    if not isinstance(document, dict):
        raise ConfigError(f"{what} should hold keys and values, such as rounds: 3, not {type(document).__name__}")
    return document


def _text(path: Path, what: str) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{what} {'is a directory' if path.is_dir() else 'does not exist'}")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ConfigError(f"{what} has {size} bytes, and a configuration at most {_MOST_BYTES}; name a YAML file")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{what} cannot be read: {error}") from error


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """`[CONFIG] [key=value ...]` as a path (or None) and the overrides."""
    paths = [argument for argument in arguments if _is_path(argument)]
    if len(paths) > 1:
        raise ConfigError(f"one configuration file at most, got {paths}; overrides have the form key=value")
    overrides = [argument for argument in arguments if not _is_path(argument)]
    return (Path(paths[0]).expanduser() if paths else None), overrides


def _is_path(argument: str) -> bool:
    """Anything without `=`; with it, what no key can be: it has a slash before, or names a file that is there."""
    key, equals, _ = argument.partition("=")
    is_key = equals and "/" not in key
    return not is_key or (key.partition(".")[0] not in RunConfig.model_fields and Path(argument).is_file())


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
    path = key.split(".")
    try:
        return path, read_scalar(value, kinds_of(tuple(path), RunConfig))
    except YamlError as error:
        raise ConfigError(f"{key}: the value {value!r} is not YAML: {error}") from error


def _set(document: Document, key: Sequence[str], value: object) -> None:
    *parents, last = key
    for parent in parents:
        child = document.setdefault(parent, {})
        if child is None:
            raise ConfigError(_empty_section(parent))
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(key)}: {parent} is a value, not a section")
        document = child
    document[last] = value


def _explain(fault: ErrorDetails) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section = key.rpartition(".")[0]
        of_recipe = [f"{section}.{name}" for name in Recipe.model_fields] if section.startswith("clients.recipes.") else []
        near = difflib.get_close_matches(key[:80], [*known_keys(), *of_recipe], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "; see `safe-fedllm keys` for all keys"
        return f"unknown key {key:.80}{hint}"
    if fault["type"] == "value_error":
        message = str(fault.get("ctx", {}).get("error"))
        return f"{key}: {message}" if key else message
    if fault["type"] == "model_type" and fault["input"] is None:
        return _empty_section(key)
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r:.80}"


def _empty_section(key: str) -> str:
    return f"{key}: is a section and holds nothing; write its keys below it, or leave it out"
