"""Errors of the command line and the driver, and what a person is told of any error.

Does not import Ray, but knows its errors: one that was raised in an actor stands for its cause.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from actors.errors import SafeFedError

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
"""Ray's own texts have colours."""


class ConfigError(SafeFedError, ValueError):
    """The configuration cannot be used: names the key, the value and the fix."""


class ClusterError(SafeFedError, RuntimeError):
    """The Ray cluster is not there, or too small for the run."""


class EndedError(ClusterError):
    """A run that was asked something is over."""


class DeadlineError(SafeFedError, TimeoutError):
    """Something took longer than its deadline: names what was waited for."""


class CollectionError(SafeFedError, RuntimeError):
    """A reference client of `probe collect` failed: names the client and what happened."""


class CheckpointError(SafeFedError, RuntimeError):
    """A run cannot be kept, or not be resumed: names the file or the place, and what to do."""


class LostError(SafeFedError, RuntimeError):
    """An actor that a round needs is gone: the round is discarded and begun again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a person is told."""

    line: str
    has_more: bool
    """Whether the traceback says more than the line."""


def describe(error: BaseException) -> Failure:
    """What went wrong, in one line; a ConfigError may have a line for each fault of a configuration."""
    cause = _raised(error)
    if isinstance(cause, ConfigError):
        return Failure(str(cause), cause is not error)
    if isinstance(cause, SafeFedError):
        return Failure(_headline(str(cause)) or type(cause).__name__, cause is not error or "\n" in str(cause).strip())
    name, text = type(cause).__name__, _headline(str(cause))
    if _is_of_ray(cause):
        return Failure(f"Ray: {text or name}", True)
    if isinstance(cause, OSError):
        return Failure(in_words(cause), True)
    if isinstance(cause, MemoryError):
        return Failure("this machine has not enough memory", True)
    return Failure(f"unexpected error, a fault of this program: {name}: {text}".rstrip(": "), True)


def _raised(error: BaseException) -> BaseException:
    """What was raised in the actor, where the error came from one."""
    while _is_of_ray(error) and isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error


def _is_of_ray(error: BaseException) -> bool:
    exceptions = sys.modules.get("ray.exceptions")
    return exceptions is not None and isinstance(error, exceptions.RayError)


def _headline(text: str) -> str:
    """The first line; where Ray's traceback begins in it, what is before and the last line, which names the error."""
    lines = text.strip().splitlines() or [""]
    before, remote, _ = _COLOUR.sub("", lines[0]).partition("ray::")
    return f"{before.rstrip(', ')}: {_COLOUR.sub('', lines[-1]).strip()}".lstrip(": ") if remote and len(lines) > 1 else lines[0]


def in_words(error: OSError) -> str:
    """The system's own words and the files."""
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror}{f': {files}' if files else ''}" if error.strerror else _headline(str(error)) or type(error).__name__
