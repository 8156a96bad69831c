"""A connection to Ray: to the named cluster, to that of the surrounding Ray job, or to a local Ray."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.exceptions import RayError

from cluster.errors import ClusterError
from cluster.ray_connection import own_packages
from cluster.ray_connection.authentication import present_token, without

_UNUSABLE = (OSError, RuntimeError, ValueError, RayError)


@contextmanager
def ray_session(address: str | None, key: str = "cluster.address") -> Iterator[None]:
    """A connected Ray for the length of the block; an existing connection is used and left open.

    The handler of SIGTERM stays that of the process. Ray's own, which connecting installs, ends it with a C++ stack trace.

    Args:
        address: None, `auto`: that of RAY_ADDRESS; without it a local Ray, or the cluster that runs on this machine.
        key: What gave the address, for messages.

    Raises:
        ClusterError: there is no cluster at the address, it refuses the connection, no local Ray can start, or the workers of an
            existing connection would import other modules in place of ours; says what to do.
    """
    if ray.is_initialized():
        _check_existing()
        yield
        return
    given = os.environ.get("RAY_ADDRESS")
    with _kept_handler():
        _connect(*((given, "RAY_ADDRESS") if given and address in (None, "auto") else (address, key)))
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


def _connect(address: str | None, key: str) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if not (address or "").startswith("ray://") and own_packages.in_the_way(own_packages.first_folders()):
        options["runtime_env"] = {"worker_process_setup_hook": own_packages.ours_first()}
    if address is None:
        _start(options)
        return
    if address != "auto":
        if not re.fullmatch(r"(ray://)?\S+:\d+", address):
            raise ClusterError(f"{key}={address} should be HOST:PORT or auto")
    elif (found := _cluster_here()) is not None:
        address = found
    if address != "auto":
        present_token(address, key)  # Fails in seconds with the reason, where Ray itself would wait long.
    try:
        ray.init(address=address, **options)
    except _UNUSABLE as error:
        raise ClusterError(
            f"{key}={address}: Ray refused the connection: {_first_line(error)}. "
            f"Start a cluster with `ray start --head`. {without(key)}".rstrip()
        ) from error


def _start(options: dict[str, Any]) -> None:
    """A local Ray; its sockets and logs lie under RAY_TMPDIR."""
    try:
        ray.init(address="local", include_dashboard=False, **options)
    except _UNUSABLE as error:
        place = os.environ.get("RAY_TMPDIR")
        here = f"RAY_TMPDIR={place}" if place else f"RAY_TMPDIR is not set, so it is {tempfile.gettempdir()}"
        raise ClusterError(
            f"no local Ray can start ({here}): {_first_line(error)}. Set RAY_TMPDIR to a directory with room that this user can "
            "write to; its path may have 35 characters, because those of Ray's sockets may have 107"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _check_existing() -> None:
    """Where the caller called ray.init(), its workers look for our packages where it let them."""
    if global_worker.mode != ray.SCRIPT_MODE:  # a worker, or a client whose driver is on the head
        return
    job = global_worker.core_worker.get_job_config()  # pyright: ignore[reportAttributeAccessIssue] - set when it connects
    folders = own_packages.folders_of(job.py_driver_sys_path)
    if (file := own_packages.in_the_way(folders)) is not None:
        raise ClusterError(
            f"{file} is in the way: the workers of this Ray would import it in place of our package of that name. Rename it, "
            "call ray.init() in another directory, or leave it out: a run then starts Ray itself and puts ours first"
        )


def _cluster_here() -> str | None:
    """Address of the cluster that this machine started last, which Ray's `auto` connects to; None: there is none."""
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    return file.read_text().strip() if file.is_file() else None
