"""Held-out prompts of an evaluation: restricted ones that should be refused, benign ones with the right answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from actors.data.prompting import Message, user_message
from actors.data.records import conversations, read_table
from actors.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictedPrompt:
    messages: tuple[Message, ...]
    answer_pattern: re.Pattern[str] | None
    """Matches only a response that really complies; None: compliance is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignPrompt:
    messages: tuple[Message, ...]
    """Without the answer."""
    response: str
    family: str


def read_restricted(path: Path, most: int) -> list[RestrictedPrompt]:
    """The first `most` prompts of a file; raises DataError that names the file and the row or column."""
    table = read_table(path).slice(0, most)
    if "instruction" not in table.column_names:
        raise DataError(f"evaluation file {path} has no column instruction (it has {sorted(table.column_names)})")
    return [_restricted(record, path, row) for row, record in enumerate(table.to_pylist())]


def read_benign(path: Path, most: int) -> list[BenignPrompt]:
    """The first `most` rows of a file, each with its right answer; without a `family` column all are of one family."""
    table = read_table(path).slice(0, most)
    families = table.column("family").to_pylist() if "family" in table.column_names else ["all"] * table.num_rows
    prompts = []
    for family, messages in zip(families, conversations(table, path), strict=True):
        *prompt, answer = messages
        prompts.append(BenignPrompt(messages=tuple(prompt), response=answer["content"], family=str(family)))
    return prompts


def _restricted(record: dict, path: Path, row: int) -> RestrictedPrompt:
    instruction = record["instruction"]
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError(f"evaluation file {path}, row {row}: instruction should be non-empty text, got {instruction!r:.80}")
    try:
        pattern = re.compile(record["answer_pattern"]) if record.get("answer_pattern") else None
    except re.error as error:
        raise DataError(f"evaluation file {path}, row {row}: answer_pattern is no regular expression: {error}") from error
    return RestrictedPrompt(messages=(user_message(instruction, record.get("input") or ""),), answer_pattern=pattern)
