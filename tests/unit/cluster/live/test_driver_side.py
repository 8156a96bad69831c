"""The control actor dies, hangs, or its name is taken: the driver goes on, and sessions find the run again."""

import os
import signal
import time

import pytest
import ray

from cluster.errors import ClusterError
from cluster.live import driver_side
from cluster.live.control import LiveRun
from cluster.live.driver_side import DriverSide
from cluster.reporting.status import first_status
from tests.chaos import actor_processes, wait_until


@pytest.fixture
def side(local_ray, monkeypatch):
    monkeypatch.setattr(driver_side, "_TIMEOUT_S", 5.0)
    made = DriverSide(first_status("watched"))
    LiveRun("watched").pause()
    yield made
    made.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_control_actor_that_dies_or_hangs_is_replaced_and_its_orders_are_known_to_be_lost(side, how):
    (process,) = actor_processes("control")
    os.kill(process.pid, how)
    began = time.monotonic()
    side.publish({**first_status("watched"), "round": 7})
    side.publish_actors(("aggregator", None))
    assert time.monotonic() - began < 1
    orders, loss = side.take_orders()
    assert orders == ()
    assert loss.startswith("the control actor was started again, give orders that waited once more: taking orders")
    assert time.monotonic() - began < 15
    live = LiveRun("watched")
    assert live.status()["round"] == 7
    assert repr(live) == "LiveRun('watched')"
    shown = live._repr_mimebundle_()  # what a notebook asks for
    assert "7 of 0" in shown["text/plain"]
    assert "watched: starting" in shown["text/html"]
    live.resume()
    assert side.take_orders() == ([("resume", None)], None)
    wait_until(lambda: len(actor_processes("control")) == 1, 20, "the end of the old control actor")


def test_a_run_whose_name_is_taken_meanwhile_goes_on_without_other_sessions_and_comes_back(side, monkeypatch):
    monkeypatch.setattr("cluster.live.control._RELEASE_S", 0.5)
    side.close()
    other = DriverSide(first_status("watched"))
    try:
        with pytest.raises(ClusterError, match="a run named watched is live on this cluster"):
            DriverSide(first_status("watched"))
        assert side.take_orders() == ((), None)
        side.publish(first_status("watched"))
    finally:
        other.close()
    wait_until(lambda: side.take_orders() == ([], None), 20, "the name")
    assert LiveRun("watched").status()["state"] == "starting"
    assert ray.is_initialized()
