"""A connection to Ray: to the named cluster, to that of the surrounding Ray job, or to a local Ray."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from cluster.errors import ClusterError
from cluster.ray_connection.authentication import present_token


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A connected Ray for the length of the block; an existing connection is used and left open.

    The handler of SIGTERM stays that of the process. Ray's own, which connecting installs, ends it with a C++ stack trace.

    Raises:
        ClusterError: there is no cluster at the address, or it refuses the connection; says what to do.
    """
    if ray.is_initialized():
        yield
        return
    with _kept_handler():
        _connect(address or os.environ.get("RAY_ADDRESS"))
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Put the handler of SIGTERM back that was there before; beside the main thread nobody changes it."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)


def _connect(address: str | None) -> None:
    options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if address is None:
        ray.init(address="local", include_dashboard=False, **options)
        return
    if address != "auto":
        if not re.fullmatch(r"(ray://)?\S+:\d+", address):
            raise ClusterError(f"cluster.address={address} should be HOST:PORT or auto")
    elif (found := _cluster_here()) is not None:
        address = found
    if address != "auto":
        present_token(address)  # Fails in seconds with the reason, where Ray itself would wait long.
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cluster.address={address}: Ray refused the connection: {str(error).splitlines()[0]}. "
            "Start a cluster with `ray start --head`, or leave cluster.address empty for a local one"
        ) from error


def _cluster_here() -> str | None:
    """Address of the cluster that this machine started last, which Ray's `auto` connects to; None: there is none."""
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    return file.read_text().strip() if file.is_file() else None
