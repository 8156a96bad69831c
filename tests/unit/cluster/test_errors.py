"""What a person is told of an error: one line, whatever it is and wherever it was raised."""

import errno
import os

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.errors import ClientTrainingError, DataError
from cluster.errors import ClusterError, ConfigError, describe


def fail(kind: str) -> None:
    errors = {
        "own": DataError("a.jsonl: row 3 has no response"),
        "system": OSError(errno.ENOSPC, "No space left on device", "/a"),
    }
    raise errors.get(kind, KeyError("x"))


class Failing:
    def __init__(self) -> None:
        fail("own")

    def ready(self) -> None:
        """Never reached."""


def raised(reference) -> RayError:
    with pytest.raises(RayError) as caught:
        ray.get(reference, timeout=60)
    return caught.value


@pytest.mark.parametrize(
    ("error", "line", "has_more"),
    [
        (ConfigError("rounds: too few\nseed: too many"), "rounds: too few\nseed: too many", False),
        (ClusterError("no room"), "no room", False),
        (ClientTrainingError("DataError: row 3\nTraceback ...\n  File"), "DataError: row 3", True),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a"), "Read-only file system: /a", True),
        (OSError("what Arrow says\nat length"), "what Arrow says", True),
        (MemoryError(), "this machine has not enough memory", True),
        (GetTimeoutError("too late\n  more"), "Ray: too late", True),
        (KeyError("x"), "unexpected error, a fault of this program: KeyError: 'x'", True),
        (AssertionError(), "unexpected error, a fault of this program: AssertionError", True),
    ],
)
def test_an_error_is_told_in_a_line(error, line, has_more):
    assert (describe(error).line, describe(error).has_more) == (line, has_more)


def test_an_error_of_an_actor_stands_for_its_cause(local_ray):
    task = ray.remote(num_cpus=0)(fail)
    own = raised(task.remote("own"))
    assert len(str(own).splitlines()) > 3
    assert describe(own).line == "a.jsonl: row 3 has no response"
    assert describe(own).has_more
    assert describe(raised(task.remote("system"))).line == "No space left on device: /a"
    assert describe(raised(task.remote("bug"))).line == "unexpected error, a fault of this program: KeyError: 'x'"


def test_an_actor_that_died_as_it_started_says_of_what(local_ray):
    died = raised(ray.remote(num_cpus=0)(Failing).remote().ready.remote())
    expected = (
        "The actor died because of an error raised in its creation task: actors.errors.DataError: a.jsonl: row 3 has no response"
    )
    assert describe(died).line == f"Ray: {expected}"
    assert describe(ClusterError(f"3 client actors in a row died as they started: {died}")).line == (
        f"3 client actors in a row died as they started: {expected}"
    )
