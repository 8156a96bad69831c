"""How a command ends: its exit code, and for an error one line that says why, with the traceback in a log."""

from __future__ import annotations

import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from cluster.errors import describe, in_words
from cluster.reporting.console import new_console, plain

ENDED_OTHERWISE, ERROR, INTERRUPTED = 1, 2, 130
"""Exit codes: it ended, but not as wanted; an error; Ctrl-C. SIGTERM: 143 (`cluster/interruption.py`)."""

log_folder: ContextVar[Path | None] = ContextVar("log_folder", default=None)
"""The run directory, once a command has one: its log of errors lies there."""


def report(error: BaseException, *, verbose: bool) -> None:
    """Print the line to standard error, with the traceback where it is asked for, else in a log where there is more to see."""
    failure, trace = describe(error), "".join(traceback.format_exception(error))
    console = new_console(stderr=True)
    if verbose:
        console.print(trace, soft_wrap=True)
    where = f" ({_log(trace)})" if failure.has_more else ""
    console.print(f"error: {failure.line}{where}", style="red", soft_wrap=True)


def has_begun(folder: Path) -> bool:
    """Whether a run lies there that can go on; False also for a path that the system refuses."""
    with suppress(OSError):
        return (folder / "config.yaml").is_file()
    return False


def resume_command(folder: Path) -> str:
    """How the run goes on, to be copied into a shell."""
    return f"go on with: safe-fedllm run --resume {shlex.quote(str(folder))}"


def report_interrupt() -> None:
    """Say that a signal ended the command, and how a run goes on."""
    folder = log_folder.get()
    text = "interrupted" if folder is None or not has_begun(folder) else f"interrupted; {resume_command(folder)}"
    new_console(stderr=True).print(text, soft_wrap=True)


def _log(trace: str) -> str:
    """Append the traceback to the log of the run directory, or write it to a new file; returns what to tell of it."""
    folder = log_folder.get()
    try:
        if folder is not None and has_begun(folder):
            path = folder / "error.log"
        else:
            with tempfile.NamedTemporaryFile(prefix="safe-fedllm-", suffix=".log", delete=False) as file:
                path = Path(file.name)
        with path.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {plain(' '.join(sys.argv))}\n{plain(trace)}\n")
    except OSError as error:
        return f"no log could be written: {in_words(error)}; --verbose shows the traceback"
    return f"traceback in {path}"
