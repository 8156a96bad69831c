"""cluster/round/opening.py on actors that only open rounds: who is gone costs the attempt, who cannot open one ends the run."""

import time

import pytest
import ray

from cluster.errors import ClusterError, LostError
from cluster.round.opening import check_opened


@ray.remote(num_cpus=0)
class Meter:
    """Opens a round as it is told to."""

    def open_round(self, how: str) -> float:
        if how == "diverges":
            raise FloatingPointError("the training loss became nan at local step 2; lower training.learning_rate")
        if how == "hangs":
            time.sleep(60)
        return 1.5


@pytest.fixture
def meter(local_ray):
    made = Meter.remote()
    yield made
    ray.kill(made)


def test_a_round_that_all_could_open_goes_on(meter):
    check_opened(0, {"canary": meter.open_round.remote("well"), "probe": meter.open_round.remote("well")}, 30.0)


def test_what_kept_an_actor_from_opening_the_round_is_told_by_name(meter):
    answers = {"canary": meter.open_round.remote("well"), "validation": meter.open_round.remote("diverges")}
    with pytest.raises(
        ClusterError, match=r"opening round 3 of the validation failed.*nan at local step 2; lower training\.learn"
    ):
        check_opened(2, answers, 30.0)


def test_an_actor_that_is_gone_or_does_not_answer_costs_the_attempt_only(meter):
    answer = meter.open_round.remote("hangs")
    with pytest.raises(LostError, match=r"^opening round 1 of the canary took longer than 0\.1 s$"):
        check_opened(0, {"canary": answer}, 0.1)
    ray.kill(meter)
    with pytest.raises(LostError, match="opening round 1 of the canary: "):
        check_opened(0, {"canary": answer}, 30.0)
