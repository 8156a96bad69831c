"""How a command ends: its exit code, and for an error one line that says why, with the traceback in a log.

Does not import Ray, but knows its errors: one that was raised in an actor stands for its cause.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from actors.errors import SafeFedError
from cluster.errors import ConfigError
from cluster.reporting.console import new_console, plain

ENDED_OTHERWISE, ERROR, INTERRUPTED = 1, 2, 130
"""Exit codes: it ended, but not as wanted; an error; Ctrl-C."""

log_folder: ContextVar[Path | None] = ContextVar("log_folder", default=None)
"""The run directory, once a command has one: its log of errors lies there."""


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
    if isinstance(cause, OSError):
        return Failure(_of_system(cause), True)
    if isinstance(cause, MemoryError):
        return Failure("this machine has not enough memory", True)
    name, text = type(cause).__name__, _headline(str(cause))
    if _is_of_ray(cause):
        return Failure(f"Ray: {text or name}", True)
    return Failure(f"unexpected error, a fault of this program: {name}: {text}".rstrip(": "), True)


def report(error: BaseException, *, verbose: bool) -> None:
    """Print the line to standard error, with the traceback where it is asked for, else in a log where there is more to see."""
    failure, trace = describe(error), "".join(traceback.format_exception(error))
    console = new_console(stderr=True)
    if verbose:
        console.print(trace, soft_wrap=True)
    where = f" ({_log(trace)})" if failure.has_more else ""
    console.print(f"error: {failure.line}{where}", style="red", soft_wrap=True)


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
    before, remote, _ = lines[0].partition("ray::")
    return f"{before.rstrip(', ')}: {lines[-1].strip()}".lstrip(": ") if remote and len(lines) > 1 else lines[0]


def _of_system(error: OSError) -> str:
    """The system's own words and the files."""
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror}{f': {files}' if files else ''}" if error.strerror else _headline(str(error)) or type(error).__name__


def _log(trace: str) -> str:
    """Append the traceback to the log of the run directory, or write it to a new file; returns what to tell of it."""
    folder = log_folder.get()
    try:
        if folder is not None and folder.is_dir():
            path = folder / "error.log"
        else:
            with tempfile.NamedTemporaryFile(prefix="safe-fedllm-", suffix=".log", delete=False) as file:
                path = Path(file.name)
        with path.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {plain(' '.join(sys.argv))}\n{plain(trace)}\n")
    except OSError as error:
        return f"no log could be written: {_of_system(error)}; --verbose shows the traceback"
    return f"traceback in {path}"
