"""Errors whose message a person can act on. They carry one string, so they survive pickling between processes."""

from __future__ import annotations


class SafeFedError(Exception):
    """Base of every error this project raises on purpose."""


class DataError(SafeFedError, ValueError):
    """A data file cannot be used: names the file and, where there is one, the row or the column."""


class ModelError(SafeFedError, ValueError):
    """A base model, tokenizer or adapter cannot be used: names the path or the module."""


class ProbeMismatchError(SafeFedError, ValueError):
    """A probe was made for another model, LoRA or feature: names both sides."""


class WireError(SafeFedError, ValueError):
    """Bytes from a client are not a message."""


class ClientTrainingError(SafeFedError, RuntimeError):
    """A client's training failed. The first line says what happened, the client's traceback follows."""
