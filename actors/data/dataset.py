"""One client's private data: encoded examples, and the seeded batches of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.data.prompting import Batch, Encoded, collate, encode
from actors.data.records import conversations, read_table
from actors.errors import DataError


@dataclass(frozen=True, slots=True)
class ClientDataset:
    """Encoded examples with the place each came from."""

    examples: tuple[Encoded, ...]
    origins: tuple[str, ...]
    """`file row` of each example, for messages."""

    def batches(self, rng: np.random.Generator, num_batches: int, batch_size: int, pad_id: int) -> list[Batch]:
        """Draw batches without replacement until the data is used up, then from a fresh permutation.

        Raises:
            DataError: a batch has no supervised token (every response was cut off); names the file and rows.
        """
        needed = num_batches * batch_size
        rounds = -(-needed // len(self.examples))
        order = np.concatenate([rng.permutation(len(self.examples)) for _ in range(rounds)])[:needed]
        return [self._collate(order[i * batch_size : (i + 1) * batch_size], pad_id) for i in range(num_batches)]

    def _collate(self, rows: np.ndarray, pad_id: int) -> Batch:
        examples = [self.examples[row] for row in rows]
        if not any(example.num_supervised for example in examples):
            places = ", ".join(self.origins[row] for row in rows[:3])
            raise DataError(
                f"a batch has no supervised token: the responses of {places} (and {max(0, len(rows) - 3)} more) lie beyond "
                "training.max_length tokens; raise it or shorten the prompts"
            )
        return collate(examples, pad_id)


def stamps(files: Sequence[str]) -> tuple[tuple[int, int] | None, ...]:
    """Bytes and time of change of each file, None where there is none: where they differ, the files are to be read again."""
    statuses = [path.stat() if path.exists() else None for path in map(Path, files)]
    return tuple(status and (status.st_size, status.st_mtime_ns) for status in statuses)


def load_dataset(files: Sequence[str], tokenizer: Any, max_length: int) -> ClientDataset:
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
