"""Every wait has a deadline, and every deadline names what it waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError

from cluster.errors import DeadlineError

T = TypeVar("T")


@overload
def wait_for(refs: ObjectRef[T], timeout_s: float, what: str, key: str = "") -> T: ...
@overload
def wait_for(refs: Sequence[ObjectRef], timeout_s: float, what: str, key: str = "") -> list[Any]: ...
def wait_for(refs: ObjectRef[T] | Sequence[ObjectRef], timeout_s: float, what: str, key: str = "") -> T | list[Any]:
    """`ray.get` with a deadline.

    Args:
        key: The setting that gave the deadline; empty: none did.

    Raises:
        DeadlineError: names `what`, the deadline and its key.
    """
    try:
        return ray.get(refs if isinstance(refs, ObjectRef) else list(refs), timeout=timeout_s)
    except GetTimeoutError as error:
        deadline = f"{key}={timeout_s:g} s; raise it if that was too short" if key else f"{timeout_s:g} s"
        raise DeadlineError(f"{what} took longer than {deadline}") from error


def wait_all(refs: Sequence[ObjectRef[T]], timeout_s: float) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """References that are ready within this time, and the others, each in their order."""
    return ray.wait(list(refs), num_returns=len(refs), timeout=timeout_s) if refs else ([], [])


def first_line(error: BaseException) -> str:
    """What happened, in one line; of an error that crossed processes, its cause."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
