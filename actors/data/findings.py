"""What is understood of data files: how each is read, how long its rows are, what cannot be used, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.data.chat import Message, Segment, user_message
from actors.data.files import layouts, read_table
from actors.data.reader import DataReader
from actors.data.records import Record, conversation, enumerate_records, text_of
from actors.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An example as the model reads it."""

    path: Path
    row: int
    """Counted from 0."""
    pieces: Sequence[Segment]
    """Text, and whether it is learned."""
    tokens: int | None
    """Of the row, before it is cut; None without a tokenizer."""
    learned: int | None
    """Tokens that carry a loss, once it is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is understood of one file."""

    path: Path
    num_rows: int
    layouts: Sequence[Mapping[str, str]]
    """Our names of columns -> the file's, for each kind of row."""
    lengths: Sequence[int]
    """Of each usable example, in file order: tokens before it is cut, or characters without a tokenizer."""
    num_cut: int
    """Examples that are cut at the maximum length; 0 without a tokenizer."""
    left_out: Sequence[int]
    """Rows without a token of their response within the maximum length."""
    errors: Sequence[str]
    """One of each row that cannot be used, or of the file."""
    shown: Sequence[Shown]
    """The first usable row, one from the middle and the last."""


def examine(path: Path, mapping: Mapping[str, str], reader: DataReader | None, max_length: int) -> Finding:
    """Read one file as a run would.

    Args:
        mapping: Our name of a column -> the file's (`data.columns`).
        reader: Of the model that will learn from it; None: no model is named.
        max_length: Tokens after which an example is cut.

    Raises:
        ModelError: the tokenizer does not load, or its chat template cannot be used.
    """
    try:
        table = read_table(path, mapping=mapping)
    except DataError as error:
        nothing = {"lengths": (), "num_cut": 0, "left_out": (), "shown": ()}
        return Finding(path=path, num_rows=0, layouts=(), errors=(str(error),), **nothing)
    rows = _Rows(path, reader, max_length, has_responses=bool({"messages", "response"} & set(table.column_names)))
    places = sorted({0, table.num_rows // 2, table.num_rows - 1})
    for row, record in enumerate_records(table):
        rows.add(row, record, is_shown=len(rows.shown) < sum(place <= row for place in places))
    return Finding(
        path=path,
        num_rows=table.num_rows,
        layouts=layouts(table),
        lengths=rows.lengths,
        num_cut=rows.num_cut,
        left_out=rows.left_out,
        errors=rows.errors,
        shown=rows.shown,
    )


class _Rows:
    """Takes the rows of one file in order, and gathers what is found."""

    def __init__(self, path: Path, reader: DataReader | None, max_length: int, *, has_responses: bool) -> None:
        self._path, self._reader, self._max_length, self._has_responses = path, reader, max_length, has_responses
        self.lengths: list[int] = []
        self.left_out: list[int] = []
        self.errors: list[str] = []
        self.shown: list[Shown] = []
        self.num_cut = 0

    def add(self, row: int, record: Record, *, is_shown: bool) -> None:
        try:
            if self._has_responses:
                self._add(row, conversation(record, self._path, row), is_shown)
            else:
                self._add_prompt(row, record, is_shown)
        except DataError as error:
            self.errors.append(str(error))

    def _add(self, row: int, messages: Sequence[Message], is_shown: bool) -> None:
        if self._reader is None:
            self._show_plainly(row, messages, is_shown)
            return
        whole = self._reader.whole(messages, self._path, row)
        kept = self._reader.cut(whole, self._path, row)
        self.lengths += [len(example.ids) for example in whole]
        self.num_cut += sum(len(example.ids) > self._max_length for example in whole)
        if not kept:
            self.left_out.append(row)
        elif is_shown:
            self._show(row, self._reader.text(kept[-1]), len(whole[-1].ids), kept[-1].num_supervised)

    def _add_prompt(self, row: int, record: Record, is_shown: bool) -> None:
        messages = [user_message(text_of(record, "instruction", self._path, row), record.get("input") or "")]
        if self._reader is None:
            self._show_plainly(row, messages, is_shown)
            return
        prompt = self._reader.prompt(messages, self._path, row)
        self.lengths.append(len(prompt.ids))
        if is_shown:
            self._show(row, self._reader.text(prompt), len(prompt.ids), 0)

    def _show_plainly(self, row: int, messages: Sequence[Message], is_shown: bool) -> None:
        self.lengths.append(sum(len(message["content"]) for message in messages))
        if is_shown:
            self._show(row, [(f"{m['role']}: {m['content']}", m["role"] == "assistant") for m in messages], None, None)

    def _show(self, row: int, pieces: Sequence[Segment], tokens: int | None, learned: int | None) -> None:
        self.shown.append(Shown(path=self._path, row=row, pieces=pieces, tokens=tokens, learned=learned))
