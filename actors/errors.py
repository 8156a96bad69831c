"""Errors whose message a person can act on. They carry one string, so they survive pickling between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SafeFedError(Exception):
    """Base of every error this project raises on purpose."""


class DataError(SafeFedError, ValueError):
    """A data file cannot be used: names the file and, where there is one, the row or the column."""


@contextmanager
def given_in(key: str) -> Iterator[None]:
    """A DataError of the block also says in which setting the file was given."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{key}: {error}") from error


class ModelError(SafeFedError, ValueError):
    """A base model, tokenizer or adapter cannot be used: names the path or the module."""


class ProbeMismatchError(SafeFedError, ValueError):
    """A probe was made for another model, LoRA or feature: names both sides."""


class WireError(SafeFedError, ValueError):
    """Bytes from a client are not a message."""


class ClientTrainingError(SafeFedError, RuntimeError):
    """A client's training failed. The first line says what happened, the client's traceback follows."""
