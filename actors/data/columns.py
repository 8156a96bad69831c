"""The layout of a row: which columns hold the instruction, its input, the response, or a conversation.

Data sets name these differently. The names that are known here are those of Alpaca, Dolly, TRL, question answering, AdvBench and
ShareGPT; `data.columns` names any others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

TEXTS = ("instruction", "input", "response", "answer_pattern")
MESSAGES = "messages"
FAMILY = "family"
"""Values of this column, and of columns that a caller asks for by name, are names: numbers are taken as their text."""

_PAIRS = {
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "question": ("answer", "response"),
    "goal": ("target",),
}
"""Name of an instruction -> names of its response. The first that is there with one is read, else the first that is there."""
_RESPONSES = tuple(dict.fromkeys(name for names in _PAIRS.values() for name in names))
_INPUTS = ("input", "context")
_CONVERSATIONS = ("messages", "conversations")
_MOST_FOUND = 1000
_MOST_LAYOUTS = 50


class Columns:
    """How the columns of one file are read; remembers those that it has met."""

    def __init__(self, mapping: Mapping[str, str] | None = None, names: Iterable[str] = ()) -> None:
        """Read columns by their known names.

        Args:
            mapping: Our name -> the file's, of columns that have other names (`data.columns`). It counts where all are there.
            names: More columns to read, under their own names.
        """
        self._found: dict[str, None] = {}
        self._has_prompts = False
        self._mapping, self._names = dict(mapping or {}), tuple(names)
        self.order = tuple(dict.fromkeys([*TEXTS, MESSAGES, FAMILY, *self._names]))
        """The columns that may be read, in the order of a table."""
        self._known: dict[tuple[str, ...], Mapping[str, str]] = {}

    def of(self, names: Iterable[str]) -> Mapping[str, str]:
        """Our name -> the file's, of the columns to read among these.

        Raises:
            ValueError: two of them have the same role, or the same name.
        """
        key = tuple(names)
        if key not in self._known:
            if len(self._found) < _MOST_FOUND:
                self._found |= dict.fromkeys(key)
            if len(self._known) == _MOST_LAYOUTS:  # rows of JSON may each have other keys
                self._known.clear()
            self._known[key] = self._read(key)
            self._has_prompts |= "instruction" in self._known[key] or MESSAGES in self._known[key]
        return self._known[key]

    @property
    def found(self) -> list[str]:
        """Names of the columns that the file has, in its order."""
        return list(self._found)

    @property
    def layouts(self) -> list[Mapping[str, str]]:
        """Our names -> the file's, of each kind of row that was met, without repetitions; the last 50."""
        return [dict(layout) for layout in dict.fromkeys(tuple(layout.items()) for layout in self._known.values())]

    @property
    def are_unknown(self) -> bool:
        """Whether the file has columns, and none for instructions or conversations."""
        return bool(self._found) and not self._has_prompts

    def missing(self) -> str:
        """What to say of a file whose columns are unknown."""
        return (
            f"no known column holds its instructions or conversations (it has {named(self.found)}). Known are "
            f"{', '.join(_PAIRS)} with {', '.join(_RESPONSES)}, and {' or '.join(_CONVERSATIONS)}. For others, "
            f"{mapping_hint(self.found)}"
        )

    def _read(self, names: Sequence[str]) -> Mapping[str, str]:
        there = set(names)
        mapping = self._mapping if set(self._mapping.values()) <= there else {}
        roles = {**_known_roles(there, mapping), **mapping}
        roles |= {name: name for name in (FAMILY, "answer_pattern", *self._names) if name in there and name not in mapping}
        chosen = {ours: roles[ours] for ours in self.order if ours in roles}
        twice = [name for name in chosen.values() if names.count(name) > 1]
        if twice:
            raise ValueError(f"it has two columns {twice[0]}")
        return chosen


def _known_roles(there: set[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """What the known names among a row's columns stand for, where the mapping does not say."""
    roles = {}
    conversation = next((name for name in _CONVERSATIONS if name in there), None)
    if conversation is not None and "instruction" not in mapping:
        roles[MESSAGES] = conversation
    instruction = mapping.get("instruction") or _instruction(there)
    if instruction is not None:
        roles["instruction"] = instruction
        others = {"response": _PAIRS.get(instruction, _RESPONSES), "input": _INPUTS}
        found = {role: _one_of(names, there, role) for role, names in others.items() if role not in mapping}
        roles |= {role: name for role, name in found.items() if name is not None}
    return roles


def _instruction(there: set[str]) -> str | None:
    found = [prompt for prompt in _PAIRS if prompt in there]
    whole = [prompt for prompt in found if there & set(_PAIRS[prompt])]
    return next(iter(whole or found), None)


def named(found: Sequence[str]) -> str:
    """Columns that a file has, for a message."""
    return ", ".join(name[:40] for name in found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")


def mapping_hint(found: Sequence[str]) -> str:
    """How to name the columns of a file that has other names."""
    first, second = found[:2] if len(found) > 1 else ("QUESTION", "ANSWER")
    return f"name the file's columns, such as: data.columns.instruction={first:.40} data.columns.response={second:.40}"


def _one_of(names: Sequence[str], there: set[str], role: str) -> str | None:
    both = [name for name in names if name in there]
    if len(both) > 1:
        raise ValueError(f"it has the columns {both[0]} and {both[1]}; say which to read: data.columns.{role}={both[0]}")
    return both[0] if both else None
