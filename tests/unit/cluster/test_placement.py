"""How many actors a cluster holds: decisions from resources, no Ray."""

import pytest

from actors.config import ModelConfig
from cluster.config import RunConfig
from cluster.errors import ClusterError
from cluster.loading import load_config
from cluster.placement import model_bytes, plan_placement

GIB = 2**30


def plan(resources: dict[str, float], *overrides: str, model: ModelConfig | None = None):
    return plan_placement(load_config(None, list(overrides)), resources, model or ModelConfig())


def test_without_gpus_there_is_a_client_actor_per_cpu():
    placement = plan({"CPU": 4, "memory": 16 * GIB})
    assert placement.num_client_actors == 4
    assert placement.client_options == {"num_cpus": 1.0}


def test_never_more_actors_than_clients_of_a_round():
    assert plan({"CPU": 64}, "clients.per_round=3").num_client_actors == 3


def test_reference_clients_of_a_refresh_and_of_a_collection_count():
    live = ("clients.per_round=3", "defense.level=live", "probe.refresh_clients=2")
    assert plan({"CPU": 64}, *live).num_client_actors == 3 + 2 * 2
    assert plan({"CPU": 64}, *live, "probe.refresh_every=0").num_client_actors == 3
    assert plan_placement(load_config(None), {"CPU": 64}, ModelConfig(), 40).num_client_actors == 40


def test_more_actors_than_cpus_share_them():
    placement = plan({"CPU": 2}, "cluster.client_actors=4")
    assert placement.num_client_actors == 4
    assert placement.client_options == {"num_cpus": 0.5}


def test_with_gpus_client_and_evaluation_share_them():
    placement = plan({"CPU": 16, "GPU": 1})
    assert placement.num_client_actors == 1
    assert placement.client_options["num_gpus"] == pytest.approx(0.8)
    assert placement.evaluation_options["num_gpus"] == pytest.approx(0.2)


def test_four_gpus_give_four_client_actors():
    assert plan({"CPU": 16, "GPU": 4}).num_client_actors == 4


def test_a_small_gpu_share_puts_several_actors_on_one_gpu():
    placement = plan({"CPU": 16, "GPU": 1}, "cluster.gpus_per_client=0.2")
    assert placement.num_client_actors == 4


def test_too_many_actors_for_the_gpus_are_refused_with_the_keys():
    with pytest.raises(ClusterError, match=r"cluster\.client_actors=3 x cluster\.gpus_per_client=0\.5 .* 1 GPUs"):
        plan({"CPU": 16, "GPU": 1}, "cluster.client_actors=3", "cluster.gpus_per_client=0.5")


def test_too_little_memory_is_refused_with_the_largest_count_that_fits():
    with pytest.raises(ClusterError, match=r"cluster\.client_actors=8 .* set cluster\.client_actors to \d+") as caught:
        plan({"CPU": 8, "memory": 2 * GIB}, "cluster.client_actors=8")
    fits = int(str(caught.value).rsplit("cluster.client_actors to ", 1)[1].split(",")[0])
    assert plan({"CPU": 8, "memory": 2 * GIB}, f"cluster.client_actors={fits}").num_client_actors == fits


def test_model_size_comes_from_the_files(base_config):
    assert model_bytes(base_config) == pytest.approx(1.8e6, rel=0.1)
    assert model_bytes(base_config.model_copy(update={"dtype": "bfloat16"})) == pytest.approx(0.9e6, rel=0.1)
    assert model_bytes(ModelConfig(path="some/hub-name")) == 0


def test_paper_defaults_fit_a_machine_with_one_gpu():
    assert plan_placement(RunConfig(), {"CPU": 8, "GPU": 1, "memory": 32 * GIB}, ModelConfig()).num_client_actors == 1
