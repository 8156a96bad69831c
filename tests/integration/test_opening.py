"""A run on a real local Ray whose validation cannot open a round: the run ends and says why, and nothing is committed."""

import pytest
import ray

from actors.server_data import Validation
from cluster.errors import ClusterError


class Diverging(Validation):
    """Its own training gives no update."""

    def _trained(self, expected, adapter):
        raise FloatingPointError("the training loss became nan at local step 1; lower training.learning_rate")


def test_what_a_level_cannot_judge_without_is_told_by_name(run_small, monkeypatch):
    monkeypatch.setattr("cluster.workers.worker_group.ValidationActor", ray.remote(Diverging))
    with pytest.raises(
        ClusterError, match=r"opening round 1 of the validation failed, .*: the training loss became nan at local"
    ):
        run_small("rounds=1", "defense.level=fltrust")
