"""Evaluations on real actors that raise, hang or die: the actor is replaced, and what cannot be measured says why."""

import os
import time

import pytest
import ray

from actors.errors import DataError
from cluster.errors import ClusterError
from cluster.state.run_state import PendingEvaluation
from cluster.workers.evaluations import Evaluations
from cluster.workers.server_actor import ServerActor
from tests.unit.cluster.builders import evaluation_report


class Troubled:
    """Measures, once the trouble is over; every actor takes one from the folder of troubles."""

    def __init__(self, troubles) -> None:
        self._left = sorted(troubles.iterdir())

    def evaluate(self, rounds_done, adapter_version, adapter):
        if self._left:
            self._left[0].unlink()
            trouble = self._left[0].name.partition("-")[2]
            if trouble == "raises":
                raise DataError("row 3 is no text\nand more")
            if trouble == "hangs":
                time.sleep(600)
            os._exit(1)
        return evaluation_report(rounds_done, 0.75)


@pytest.fixture
def evaluations(local_ray, tmp_path):
    """Evaluations whose actors meet these troubles, one each: `evaluations("raises", "dies")`."""
    made, servers = [], []

    def make(*troubles):
        for number, trouble in enumerate(troubles):
            (tmp_path / f"{number}-{trouble}").touch()
        actors = ray.remote(Troubled).options(num_cpus=0)
        servers.append(ServerActor("evaluation", lambda: actors.remote(tmp_path)))
        made.append(Evaluations(servers[-1], timeout_s=25))
        for rounds_done in (0, 5):
            made[-1].submit(rounds_done, PendingEvaluation(adapter_version=rounds_done, adapter=b"weights"))
        return made[-1]

    yield make
    for each in servers:
        each.close()


def test_an_evaluation_that_raises_or_hangs_is_done_again_like_one_whose_actor_died(evaluations):
    measuring = evaluations("raises", "hangs", "dies")
    assert [report.rounds_done for report in measuring.collect(block=True)] == [0, 5]
    assert measuring.pending == {}


def test_one_that_fails_again_and_again_ends_with_its_cause_and_stays_pending(evaluations):
    measuring = evaluations(*["raises"] * 5)
    with pytest.raises(
        ClusterError, match=r"evaluation after 0 rounds failed 5 times in a row, last: DataError: row 3 is no text$"
    ):
        measuring.collect(block=True)
    assert list(measuring.pending) == [0, 5]


def test_deaths_while_rounds_go_on_are_not_counted(evaluations):
    measuring = evaluations(*["dies"] * 6)
    reports, deadline = [], time.monotonic() + 120
    while len(reports) < 2 and time.monotonic() < deadline:
        reports += measuring.collect(block=False)
        time.sleep(0.1)
    assert [report.rounds_done for report in reports] == [0, 5]


def test_deaths_while_the_run_waits_for_nothing_else_end_it(evaluations):
    measuring = evaluations(*["dies"] * 5)
    with pytest.raises(ClusterError, match=r"evaluation after 0 rounds failed 5 times in a row, last: "):
        measuring.collect(block=True)


def test_without_prompts_no_actor_is_needed_and_every_report_is_empty():
    measuring = Evaluations(None, timeout_s=20)
    measuring.submit(3, PendingEvaluation(adapter_version=2, adapter=b"weights"))
    assert list(measuring.pending) == [3]
    (report,) = measuring.collect(block=False)
    assert (report.rounds_done, report.adapter_version, report.rule_score, report.utility) == (3, 2, None, None)
    assert measuring.pending == {}
