"""What became of a call to an actor, from what `ray.get` raised: the one place that tells a death from an error of its code.

A death costs time only: who lost an actor begins the round again, or drops the client whose actor it was. Whatever Ray raises
that is not an error of the called code is a death of something: the actor's process, which may have been killed for memory
(`OutOfMemoryError` is no `RayActorError`), its node, its place on the cluster, or an object that lay on a node. So no kind of
death is listed here, and one that Ray adds is a death too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, overload

from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayError, RayTaskError, UnserializableException

from cluster.errors import DeadlineError, LostError
from cluster.workers.deadlines import first_line, wait_for

T = TypeVar("T")
Fate = Literal["raised", "object lost", "gone"]
"""`raised`: the called code raised an error of its own. `object lost`: what the call was to read, or its answer, is gone, and the
actor that was called may live. `gone`: the actor is, or it does not answer."""


def fate_of(error: BaseException) -> Fate:
    """What became of the call that raised this error, a RayError or a DeadlineError."""
    if isinstance(error, RayTaskError):
        return "object lost" if _is_death(_root(error)) else "raised"
    if isinstance(error, ObjectLostError):
        return "object lost"
    return "gone" if isinstance(error, DeadlineError) or _is_death(error) else "raised"


@overload
def answer_of(refs: ObjectRef[T], timeout_s: float, what: str, key: str = "") -> T: ...
@overload
def answer_of(refs: Sequence[ObjectRef], timeout_s: float, what: str, key: str = "") -> list[Any]: ...
def answer_of(refs: ObjectRef[T] | Sequence[ObjectRef], timeout_s: float, what: str, key: str = "") -> T | list[Any]:
    """An answer that the round cannot do without. What the called code raises passes through.

    Args:
        key: As in `wait_for`.

    Raises:
        LostError: the actor does not answer in time, or it or an object died; the round is to begin again.
    """
    try:
        return wait_for(refs, timeout_s, what, key)
    except (RayError, DeadlineError) as error:
        if fate_of(error) == "raised":
            raise
        raise LostError(str(error) if isinstance(error, DeadlineError) else f"{what}: {first_line(error)}") from error


def _root(error: BaseException) -> BaseException:
    """The error at the root: the error that an argument carries is the cause of that of the call which was to read it."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def _is_death(error: BaseException) -> bool:
    """Ray's own errors are deaths, except the two in which it wraps an error that cannot be pickled."""
    return isinstance(error, RayError) and not isinstance(error, UnserializableException) and type(error) is not RayError
