"""One client's private data: encoded examples, and the seeded batches of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.data.prompting import Batch, Encoded, Tokenizer, collate, encode
from actors.data.records import conversations, read_table
from actors.errors import DataError


@dataclass(frozen=True, slots=True)
class ClientDataset:
    """Encoded examples, each with its place in the files."""

    examples: tuple[Encoded, ...]
    origins: tuple[str, ...]
    """`file row` of each example, for errors."""

    def batches(self, rng: np.random.Generator, num_batches: int, batch_size: int, pad_id: int) -> list[Batch]:
        """Draw batches as `draw_batches` does.

        Raises:
            DataError: a batch has no supervised token (every response was cut off); names the file and rows.
        """
        return [self._collate(rows, pad_id) for rows in draw_batches(rng, len(self.examples), num_batches, batch_size)]

    def _collate(self, rows: np.ndarray, pad_id: int) -> Batch:
        examples = [self.examples[row] for row in rows]
        if not any(example.num_supervised for example in examples):
            places = ", ".join(self.origins[row] for row in rows[:3])
            raise DataError(
                f"a batch has no supervised token: the responses of {places} (and {max(0, len(rows) - 3)} more) lie beyond "
                "training.max_length tokens; raise it or shorten the prompts"
            )
        return collate(examples, pad_id)


def draw_batches(rng: np.random.Generator, num_examples: int, num_batches: int, batch_size: int) -> np.ndarray:
    """Example numbers, (num_batches, batch_size): without replacement until all are used, then from a fresh permutation."""
    needed = num_batches * batch_size
    order = np.concatenate([rng.permutation(num_examples) for _ in range(-(-needed // num_examples))])
    return order[:needed].reshape(num_batches, batch_size)


def stamps(files: Sequence[str]) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of change of each file, None where there is none. Where they have changed, the files must be read again."""
    statuses = [path.stat() if path.exists() else None for path in map(Path, files)]
    return tuple(status and (status.st_size, status.st_mtime_ns) for status in statuses)


def load_dataset(files: Sequence[str], tokenizer: Tokenizer, max_length: int) -> ClientDataset:
    """Read and encode a client's files, in the given order.

    Raises:
        DataError: a file cannot be used, or no example has a supervised token.
    """
    examples, origins = [], []
    for name in files:
        path = Path(name)
        for row, messages in enumerate(conversations(read_table(path), path)):
            try:
                examples.append(encode(tokenizer, messages, max_length))
            except DataError as error:
                raise DataError(f"data file {path}, row {row}: {error}") from error
            origins.append(f"{path} row {row}")
    return ClientDataset(tuple(examples), tuple(origins))
