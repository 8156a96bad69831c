"""Held-out prompts of an evaluation: restricted prompts that should be refused, benign prompts with their right answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.data.answer_patterns import AnswerPattern
from actors.data.chat import Message, user_message
from actors.data.columns import named
from actors.data.files import bad_row, found_columns, read_table
from actors.data.records import conversations, text_of
from actors.errors import DataError

SOUNDS_UNSAFE = "sounds_unsafe"
"""Family of benign prompts that a model may take for restricted ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictedPrompt:
    messages: tuple[Message, ...]
    answer_pattern: AnswerPattern | None
    """Matches only a complying response; None: compliance is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignPrompt:
    messages: tuple[Message, ...]
    """Without the answer."""
    response: str
    family: str

    @property
    def answered(self) -> list[Message]:
        """The conversation with the right answer."""
        return [*self.messages, {"role": "assistant", "content": self.response}]


def read_restricted(path: Path, most: int, mapping: Mapping[str, str] | None = None) -> list[RestrictedPrompt]:
    """The first `most` restricted prompts of a file; raises DataError that names the file, and the row or column."""
    table = read_table(path, mapping=mapping).slice(0, most)
    if "instruction" not in table.column_names:
        raise DataError(f"evaluation file {path} has no column of instructions (it has {named(found_columns(table))})")
    return [_restricted(record, path, row) for row, record in enumerate(table.to_pylist())]


def read_benign(path: Path, most: int, mapping: Mapping[str, str] | None = None) -> list[BenignPrompt]:
    """The first `most` benign prompts of a file; without a `family` column all are of one family. Raises as `read_restricted`."""
    table = read_table(path, mapping=mapping).slice(0, most)
    families = table.column("family").to_pylist() if "family" in table.column_names else ["all"] * table.num_rows
    prompts = []
    for row, (family, messages) in enumerate(zip(families, conversations(table, path), strict=True)):
        *prompt, answer = messages
        if answer["role"] != "assistant":
            raise bad_row(path, row, f"the last message should be the assistant's, the right answer, got {answer!r:.80}")
        prompts.append(BenignPrompt(messages=tuple(prompt), response=answer["content"], family=str(family)))
    return prompts


def _restricted(record: Mapping[str, str | None], path: Path, row: int) -> RestrictedPrompt:
    message = user_message(text_of(record, "instruction", path, row), record.get("input") or "")
    pattern = record.get("answer_pattern") or None
    try:
        return RestrictedPrompt(messages=(message,), answer_pattern=None if pattern is None else AnswerPattern(pattern))
    except ValueError as error:
        raise bad_row(path, row, f"answer_pattern is no regular expression: {error}, got {pattern!r:.80}") from error
