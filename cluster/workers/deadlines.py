"""Every wait has a deadline, and every deadline names what it waited for."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from cluster.errors import DeadlineError


def wait_for(refs: Any, timeout_s: float, what: str) -> Any:
    """`ray.get` with a deadline.

    Raises:
        DeadlineError: names `what` and the deadline.
    """
    try:
        return ray.get(refs, timeout=timeout_s)
    except GetTimeoutError as error:
        raise DeadlineError(f"{what} took longer than {timeout_s:g} s") from error
