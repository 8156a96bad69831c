"""How many cells share a cluster, and with how many client actors each."""

import pytest

from cluster.comparison.cell_runner import actors_of_cell, most_at_once, with_actors
from cluster.config.loading import load_config
from cluster.errors import ClusterError
from cluster.workers.nodes import Node

GIB = 2**30


def config(*overrides):
    return load_config(None, ["defense.level=shadow", *overrides])


def nodes(*resources):
    return [Node(item) for item in resources]


def test_a_machine_that_one_run_fills_runs_one_at_a_time():
    assert most_at_once([config()] * 4, nodes({"CPU": 2})) == 1
    assert most_at_once([config()] * 4, nodes({"CPU": 19})) == 1


def test_room_for_several_runs_is_used_up_to_the_number_of_cells():
    assert most_at_once([config()] * 4, nodes({"CPU": 16}, {"CPU": 16})) == 3  # 10 clients each
    assert most_at_once([config()] * 2, nodes({"CPU": 64})) == 2
    assert most_at_once([config("cluster.client_actors=1")] * 4, nodes({"CPU": 2})) == 2


def test_actors_are_divided_among_the_cells():
    assert actors_of_cell(config(), nodes({"CPU": 4}), 2) == 2
    assert actors_of_cell(config(), nodes({"CPU": 5}), 2) == 2
    assert actors_of_cell(config("cluster.client_actors=1"), nodes({"CPU": 4}), 2) == 1
    assert actors_of_cell(config("cluster.client_actors=8"), nodes({"CPU": 4}), 2) == 2
    assert actors_of_cell(config("clients.per_round=5"), nodes({"CPU": 16}), 2) == 8  # the run takes no more than it needs


def test_every_cell_has_its_own_evaluation_on_the_gpus():
    assert actors_of_cell(config("cluster.gpus_per_client=0.2"), nodes({"CPU": 8, "GPU": 1}), 2) == 1
    assert actors_of_cell(config(), nodes({"CPU": 16, "GPU": 8}), 2) == 4
    with pytest.raises(ClusterError, match=r"--parallel 2: .* of every cell; lower it, or cluster\.gpus_per_client"):
        actors_of_cell(config(), nodes({"CPU": 8, "GPU": 1}), 2)


def test_more_cells_than_actors_or_memory_are_refused():
    with pytest.raises(ClusterError, match="--parallel 3"):
        actors_of_cell(config(), nodes({"CPU": 2}), 3)
    with pytest.raises(ClusterError, match=r"--parallel 2: .* lower --parallel"):
        actors_of_cell(config(), nodes({"CPU": 2, "memory": GIB}), 2)
    assert most_at_once([config("cluster.client_actors=1")] * 2, nodes({"CPU": 2, "memory": GIB})) == 1


def test_a_share_of_a_gpu_on_a_cluster_without_one_is_refused():
    with pytest.raises(ClusterError, match="--parallel 2: the cluster has no room for a client actor of every cell; lower it"):
        actors_of_cell(config("cluster.gpus_per_client=0.2"), nodes({"CPU": 8}), 2)
    assert most_at_once([config("cluster.gpus_per_client=0.2")] * 2, nodes({"CPU": 8})) == 1


def test_the_pool_is_all_that_changes():
    assert with_actors(config(), 3) == config("cluster.client_actors=3")
