"""Errors with a message that a person can act on. Each carries one string, so it survives pickling between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SafeFedError(Exception):
    """Base of every error that this project raises on purpose."""


class DataError(SafeFedError, ValueError):
    """A data file cannot be used: names the file and, where there is one, the row or the column."""


@contextmanager
def given_in(key: str) -> Iterator[None]:
    """A DataError raised in the block also names the setting `key`, which gave the file."""
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


class KeyFileError(SafeFedError, ValueError):
    """A key file cannot be used: names the file and the fix."""


class EnrolmentError(SafeFedError, ValueError):
    """An invitation or an enrolment cannot be used: says why."""


class GatewayError(SafeFedError, RuntimeError):
    """A participant cannot take part: says why, and what to do."""
