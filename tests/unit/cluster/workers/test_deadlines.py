"""Waits with a deadline, and errors in one line."""

import pytest
import ray

from cluster.errors import DeadlineError
from cluster.workers.deadlines import first_line, wait_all, wait_for


@pytest.fixture
def never(local_ray):
    """A reference that never becomes ready: no node has so many CPUs."""
    return ray.remote(num_cpus=1000)(lambda: None).remote()


def test_a_deadline_names_what_it_waited_for(never):
    assert wait_for(ray.put(3), 1.0, "counting") == 3
    with pytest.raises(DeadlineError, match=r"^reading the future took longer than 0\.1 s$"):
        wait_for(never, 0.1, "reading the future")


def test_what_is_ready_is_told_from_what_is_late(never):
    ready = [ray.put(1), ray.put(2)]
    assert wait_all([ready[0], never, ready[1]], 0.1) == (ready, [never])
    assert wait_all([], 0.1) == ([], [])


def test_an_error_is_told_in_one_line():
    assert (
        first_line(DeadlineError("refitting the probe took longer than 60 s\nmore"))
        == "refitting the probe took longer than 60 s"
    )
    assert first_line(RuntimeError("")) == "RuntimeError"
