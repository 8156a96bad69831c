"""From data files to what a model trains on: reads, lays out, encodes and checks every row once.

What passes here does not fail in a round: every token has an embedding and every example fits into the model's positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.config import ModelConfig
from actors.data.chat import Chat, Message, Segment
from actors.data.dataset import Dataset
from actors.data.encoding import IGNORED, Encoded, encode, encode_prompt
from actors.data.files import bad_row, read_table
from actors.data.records import conversations
from actors.errors import DataError
from actors.model.base import Limits, load_tokenizer, read_limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The examples of some files."""

    dataset: Dataset
    num_rows: int
    """Rows of the files; a row may give several examples."""
    left_out: Sequence[str]
    """`file row` of each row without a response token within the maximum length, which is left out."""


def no_examples(where: str, max_length: int) -> DataError:
    """The error of data with nothing to train on."""
    return DataError(
        f"{where}: no row has a token of its response within training.max_length={max_length}; raise it or shorten the prompts"
    )


class DataReader:
    """Encodes data files for one base model, with its own tokenizer."""

    def __init__(self, model: ModelConfig, max_length: int, mapping: Mapping[str, str] | None = None) -> None:
        """Read for a model.

        Args:
            max_length: Tokens after which an example is cut (`training.max_length`).
            mapping: Our name of a column -> the files' (`data.columns`).
        """
        self._model, self._max_length, self._mapping = model, max_length, mapping

    def read(self, files: Sequence[str | Path], *, may_be_empty: bool = False) -> Reading:
        """Read and encode files, in the given order.

        Args:
            may_be_empty: Whether it is no error that no row has a response token.

        Raises:
            DataError: a file or a row cannot be used, or no row has a response token; names the file and the row.
            ModelError: the tokenizer does not load, or its chat template cannot be used.
        """
        examples: list[Encoded] = []
        left_out: list[str] = []
        num_rows = 0
        for path in map(Path, files):
            for row, messages in enumerate(conversations(read_table(path, mapping=self._mapping), path)):
                found = self.encode(messages, path, row)
                if not found:
                    left_out.append(f"{path} row {row}")
                examples += found
                num_rows += 1
        if not (examples or may_be_empty):
            raise no_examples(f"data file {files[0]}", self._max_length)
        return Reading(dataset=Dataset.of(examples), num_rows=num_rows, left_out=left_out)

    def encode(self, messages: Sequence[Message], path: Path, row: int) -> list[Encoded]:
        """The examples of one row that have a response token; raises DataError that names the row."""
        return self.cut(self.whole(messages, path, row), path, row)

    def whole(self, messages: Sequence[Message], path: Path, row: int) -> list[Encoded]:
        """The examples of one row before any is cut; raises DataError that names the row."""
        with _named(path, row):
            return encode(self._chat, messages)

    def cut(self, examples: Sequence[Encoded], path: Path, row: int) -> list[Encoded]:
        """What is trained on of a row's examples; raises DataError, which names the row, where the model cannot read it."""
        short = [example.cut(self._max_length) for example in examples]
        with _named(path, row):
            for example in short:
                self._check(example.ids, "lower training.max_length")
        return [example for example in short if example.num_supervised]

    def prompt(self, messages: Sequence[Message], path: Path, row: int) -> Encoded:
        """A conversation that waits for its answer, of which nothing is learned; raises DataError that names the row."""
        with _named(path, row):
            ids = tuple(encode_prompt(self._chat, messages))
            self._check(ids, "shorten it")
        return Encoded(ids, (IGNORED,) * len(ids))

    def text(self, example: Encoded) -> list[Segment]:
        """An example as the model reads it: pieces of text, and whether each is learned."""
        runs = itertools.groupby(zip(example.ids, example.labels, strict=True), lambda pair: pair[1] != IGNORED)
        pieces = [(learned, [token for token, _ in run]) for learned, run in runs]
        texts = self._chat.tokenizer.batch_decode([ids for _, ids in pieces], skip_special_tokens=False)
        return [(text, learned) for text, (learned, _) in zip(texts, pieces, strict=True)]

    def check_prompt(self, messages: Sequence[Message], num_new_tokens: int, path: Path, row: int) -> None:
        """See that the model can read a prompt and answer it with so many tokens; raises DataError that names the row."""
        with _named(path, row):
            ids = encode_prompt(self._chat, messages)
            self._check(ids, f"shorten it or lower evaluation.max_new_tokens={num_new_tokens}", num_new_tokens)

    @cached_property
    def _chat(self) -> Chat:
        chat = Chat(load_tokenizer(self._model))
        _ = chat.stop_ids  # a response must end
        return chat

    @cached_property
    def _limits(self) -> Limits:
        return read_limits(self._model)

    def _check(self, ids: Sequence[int], fix: str, num_new_tokens: int = 0) -> None:
        limits, length = self._limits, len(ids) + num_new_tokens
        if limits.positions is not None and length > limits.positions:
            raise DataError(
                f"it takes {length} tokens, and model.path={self._model.path} has {limits.positions} positions; {fix}"
            )
        beyond = [token for token in ids if token >= limits.embeddings]
        if beyond:
            raise DataError(
                f"it has token {beyond[0]}, and model.path={self._model.path} has {limits.embeddings} embeddings: its tokenizer "
                "has tokens that the model lacks; resize the model's embeddings and save it, or remove those tokens"
            )


@contextmanager
def _named(path: Path, row: int) -> Iterator[None]:
    """A DataError raised in the block names the row."""
    try:
        yield
    except DataError as error:
        raise bad_row(path, row, str(error)) from error
