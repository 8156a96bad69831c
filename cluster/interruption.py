"""Ctrl-C and SIGTERM of a command: it unwinds as from an error, so that actors end and files are whole, and says how to go on.

SIGTERM is what batch systems, Kubernetes and `timeout` send. The exit code is that of a process that the signal ended:
130 or 143. Only the command line takes these signals over; a library call leaves the handlers of its process alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TWICE_S = 1.0
"""`timeout` signals its child and then the child's group: what comes within this time is the same request."""
_UNWINDING_S = 15.0
"""Unwinding takes a few seconds, unless Ray's own processes got the signal too; then a call to them may hang."""


@contextmanager
def unwinding_on_signals(farewell: Callable[[], None]) -> Iterator[None]:
    """The first signal raises KeyboardInterrupt or SystemExit(143) in the block; a second one ends the process at once.

    Args:
        farewell: Called when the block has unwound, or takes too long and the process is ended as it is.
    """
    first: list[float] = []

    def end(number: int, _frame: FrameType | None) -> None:
        if first:
            if time.monotonic() - first[0] > _TWICE_S:
                os._exit(128 + number)
            return
        first.append(time.monotonic())
        patience = threading.Timer(_UNWINDING_S, copy_context().run, [give_up, 128 + number])
        patience.daemon = True
        patience.start()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def give_up(exit_code: int) -> None:
        farewell()
        os._exit(exit_code)

    before = [(number, signal.signal(number, end)) for number in _SIGNALS]
    try:
        yield
    finally:
        if first:
            farewell()
        for number, handler in before:
            signal.signal(number, handler)
