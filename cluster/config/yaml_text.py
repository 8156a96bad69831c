"""YAML whose values follow the keys' types: what stands at a key that takes text is text, such as 2024-01-01, 1:30 or `on`.

Elsewhere a value is null, true, false, a number of YAML 1.2, or text. Only what JSON could say is read: no tags, no dates, no
key twice. Aliases may repeat a part, up to a bound.
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

_PREFIX = "tag:yaml.org,2002:"
_NULL, _TEXT = f"{_PREFIX}null", f"{_PREFIX}str"
_PLAIN = {_PREFIX + name for name in ("null", "str", "bool", "int", "float", "seq", "map", "merge")}
_MOST_NODES = 100_000
_UNREADABLE = (yaml.YAMLError, RecursionError, ValueError)

Kinds = frozenset[Any]
"""What a key may hold: str, NoneType, list, other classes, and classes of settings for sections; empty: unknown."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2, as JSON has them."""

    yaml_implicit_resolvers = {}


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_PREFIX + _name, re.compile(f"(?:{_pattern})$"), _first)


class YamlError(ValueError):
    """One line: what is wrong, and where."""


def read_yaml(text: str, kinds: Kinds) -> object:
    """The value of a document whose root may hold these kinds.

    Raises:
        YamlError: not YAML, a tag, a key that is given twice, or too many parts.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        _settle(node, kinds, "")
        return loader.construct_document(node)
    except YamlError:
        raise
    except _UNREADABLE as error:
        raise YamlError(_in_a_line(error)) from error


def read_scalar(text: str, kinds: Kinds) -> object:
    """The value of a key that is given as `key=text`: a list or section as YAML, anything else as it is written."""
    if text.startswith(("{", "[") if str not in kinds else "[" if list in kinds else ()):
        try:
            return read_yaml(text, kinds)
        except YamlError:
            if str not in kinds:
                raise
    if text in ("", "null"):
        return text if str in kinds and NoneType not in kinds else None
    if str in kinds:
        return text
    tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False))
    return read_yaml(text, kinds) if tag != _TEXT else text


def kinds_of(key: tuple[str, ...], root: type[BaseModel]) -> Kinds:
    """What the dotted key may hold in the settings `root`; empty for a key that they do not have."""
    kinds: Kinds = frozenset({root})
    for name in key:
        kinds = _child(kinds, name)
    return kinds


def _child(kinds: Kinds, name: str) -> Kinds:
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and (field := kind.model_fields.get(name)) is not None:
            return _kinds_of_field(field)
    return frozenset()


def _kinds_of_field(field: FieldInfo) -> Kinds:
    """A field whose values are made from others by a validator of its own takes lists too."""
    is_made = any(isinstance(item, BeforeValidator) for item in field.metadata)
    return _flat(field.annotation) | (frozenset({list}) if is_made else frozenset())


def _flat(annotation: Any) -> Kinds:
    """Members of unions and lists at any depth, without their annotations; literals count as their types."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return frozenset(type(part) for part in parts)
    if origin is None:
        return frozenset({NoneType if annotation is None else annotation})
    parts = parts[:1] if hasattr(annotation, "__metadata__") else parts
    found = frozenset().union(*map(_flat, parts))
    return found | {list} if origin in (list, tuple) else found


def _settle(node: yaml.Node, kinds: Kinds, key: str) -> None:
    """Check a node and make it text where its key takes text."""
    line = node.start_mark.line + 1
    if node.tag not in _PLAIN:
        raise YamlError(f"line {line}: {key or 'the document'} has the tag {node.tag.replace(_PREFIX, '!!')}; leave it out")
    if isinstance(node, yaml.ScalarNode):
        is_null = node.tag == _NULL and NoneType in kinds
        if str in kinds and not is_null:
            node.tag = _TEXT
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _settle(item, kinds, key)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            _settle_pair(name, value, kinds, key, lines)


def _settle_pair(name: yaml.Node, value: yaml.Node, kinds: Kinds, section: str, lines: dict[str, int]) -> None:
    line = name.start_mark.line + 1
    if not isinstance(name, yaml.ScalarNode):
        raise YamlError(f"line {line}: a key should be a word, such as rounds")
    if name.tag == f"{_PREFIX}merge":
        return _settle(value, kinds, section)
    name.tag, key = _TEXT, f"{section}.{name.value}" if section else name.value
    if name.value in lines:
        raise YamlError(f"the key {key} is given twice, in line {lines[name.value]} and line {line}; leave one out")
    lines[name.value] = line
    return _settle(value, _child(kinds, name.value), key)


def _count(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes under a node with every alias written out; raises YamlError beyond the bound, or when a part holds itself."""
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise YamlError(f"line {node.start_mark.line + 1}: a part holds itself")
        return sizes[id(node)]
    sizes[id(node)] = -1
    children = [child for item in node.value for child in (item if isinstance(item, tuple) else (item,))]
    size = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_count(child, sizes) for child in children))
    if size > _MOST_NODES:
        raise YamlError(f"it has more than {_MOST_NODES} values with every alias written out")
    sizes[id(node)] = size
    return size


def _in_a_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).splitlines()[0]
    where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    hint = "; indent with spaces, not with tabs" if error.problem and r"'\t'" in error.problem else ""
    return f"{where}{error.problem or error.context}{hint}"
