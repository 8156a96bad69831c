"""How many actors a cluster holds, and where: decisions from nodes, no Ray."""

import math

import pytest

from actors.config import ModelConfig
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import ClusterError
from cluster.workers.nodes import Node
from cluster.workers.placement import model_bytes, plan_collection, plan_placement
from tests.small_models import save_model

GIB = 2**30
SERVER = {"role": "server"}
LABELLED = "cluster.server_label=role=server"
LIVE = ("clients.per_round=3", "defense.level=live", "probe.refresh_clients=3")


def plan(*nodes: dict[str, float] | Node, overrides=(), model: ModelConfig | None = None, num_clients: int | None = None):
    nodes = [node if isinstance(node, Node) else Node(node) for node in nodes]
    return plan_placement(load_config(None, ["defense.level=shadow", *overrides]), nodes, model or ModelConfig(), num_clients)


def test_without_gpus_there_is_a_client_actor_per_cpu_of_every_node():
    placement = plan({"CPU": 3, "memory": 16 * GIB}, {"CPU": 1, "memory": 16 * GIB})
    assert placement.num_client_actors == placement.num_placeable == 4
    assert placement.client_options == {"num_cpus": 1.0}


def test_never_more_actors_than_clients_of_a_round():
    assert plan({"CPU": 64}, overrides=["clients.per_round=3"]).num_client_actors == 3
    assert plan({"CPU": 64}, num_clients=40).num_client_actors == 40


def test_reference_clients_of_a_refresh_and_of_a_collection_count():
    assert plan({"CPU": 64}, overrides=LIVE).num_client_actors == 3 + 2 * 3
    assert plan({"CPU": 64}, overrides=[*LIVE, "probe.refresh_every=0"]).num_client_actors == 3
    assert plan_collection(load_config(None), [Node({"CPU": 64})], ModelConfig(), 40).num_client_actors == 40


def test_more_actors_than_cpus_share_them():
    placement = plan({"CPU": 2}, overrides=["cluster.client_actors=4"])
    assert placement.num_client_actors == placement.num_placeable == 4
    assert placement.client_options == {"num_cpus": 0.5}


def test_actors_for_the_clients_are_wanted_even_where_there_is_no_room_yet():
    small, large = (plan(*nodes, overrides=["cluster.clients_per_actor=4"]) for nodes in ([{"CPU": 1}], [{"CPU": 1}, {"CPU": 8}]))
    assert (small.num_client_actors, small.num_placeable) == (3, 1)
    assert (large.num_client_actors, large.num_placeable) == (3, 3)
    assert small.client_options == {"num_cpus": 1.0}


def test_with_gpus_client_and_evaluation_share_them():
    placement = plan({"CPU": 16, "GPU": 1})
    assert placement.num_client_actors == 1
    assert placement.client_options["num_gpus"] == pytest.approx(0.8)
    assert placement.evaluation_options["num_gpus"] == pytest.approx(0.2)


@pytest.mark.parametrize("asking", [["defense.level=canary"], ["defense.level=none", "defense.guard.enabled=true"]])
def test_the_canary_shares_the_evaluations_model_and_its_part_of_a_gpu(asking):
    placement = plan({"CPU": 16, "GPU": 1}, overrides=[*asking, "evaluation.canary_path=refusals.jsonl"])
    assert placement.shares_model
    assert placement.evaluation_options["num_gpus"] == pytest.approx(0.2)
    assert placement.client_options["num_gpus"] + placement.evaluation_options["num_gpus"] <= 1


@pytest.mark.parametrize(("share", "actors"), [(0.8, 4), (0.2, 4 + 3 * 5), (0.5, 1 + 3 * 2), (1, 3), (2, 1)])
def test_a_share_below_1_lies_on_one_gpu_and_the_evaluation_takes_part_of_one(share, actors):
    placement = plan({"CPU": 64, "GPU": 4}, overrides=[f"cluster.gpus_per_client={share}"], num_clients=100)
    assert placement.num_client_actors == placement.num_placeable == actors


def test_four_gpus_on_nodes_of_their_own_give_four_client_actors():
    assert plan(*[{"CPU": 4, "GPU": 1}] * 4).num_client_actors == 4


def test_too_many_actors_for_the_gpus_wait_for_more():
    placement = plan({"CPU": 16, "GPU": 1}, overrides=["cluster.client_actors=3", "cluster.gpus_per_client=0.5"])
    assert (placement.num_client_actors, placement.num_placeable) == (3, 1)


def test_gpus_that_are_named_are_waited_for_where_there_are_none_yet():
    placement = plan({"CPU": 4}, overrides=["cluster.gpus_per_client=1", "cluster.client_actors=2"])
    assert (placement.num_client_actors, placement.num_placeable) == (2, 0)
    assert placement.client_options["num_gpus"] == 1


def test_a_share_that_the_evaluation_leaves_on_no_gpu_is_refused():
    with pytest.raises(ClusterError, match=r"cluster\.gpus_per_client=1: .*the cluster has 1 GPUs"):
        plan({"CPU": 16, "GPU": 1}, overrides=["cluster.gpus_per_client=1"])


def test_too_little_memory_is_refused_with_the_largest_count_that_fits():
    node = {"CPU": 8, "memory": 2 * GIB}
    with pytest.raises(ClusterError, match=r"cluster\.client_actors=8 .* set cluster\.client_actors to \d+") as caught:
        plan(node, overrides=["cluster.client_actors=8"])
    fits = int(str(caught.value).rsplit("cluster.client_actors to ", 1)[1].split(",")[0])
    assert plan(node, overrides=[f"cluster.client_actors={fits}"]).num_client_actors == fits


def test_the_servers_label_keeps_server_and_clients_apart():
    nodes = (Node({"CPU": 2}, SERVER), Node({"CPU": 4}), Node({"CPU": 1}, {"role": "other"}))
    placement = plan(*nodes, overrides=[LABELLED, *LIVE], num_clients=9)
    inside, outside = {"role": "server"}, {"role": "!server"}
    assert placement.num_client_actors == 3
    assert placement.client_options == {"num_cpus": 1.0, "label_selector": outside}
    assert placement.server_options == {"num_cpus": 0, "label_selector": inside}
    assert placement.evaluation_options == {"num_cpus": 0, "label_selector": inside}
    assert placement.num_reference_actors == 2
    assert placement.reference_options == {"num_cpus": 1.0, "label_selector": inside}
    collecting = plan_collection(load_config(None, [LABELLED]), nodes, ModelConfig(), 16)
    assert (collecting.num_client_actors, collecting.client_options) == (2, {"num_cpus": 1.0, "label_selector": inside})


def test_the_evaluation_goes_where_the_gpus_are():
    gpu = Node({"CPU": 4, "GPU": 2})
    on_clients = plan(Node({"CPU": 4}, SERVER), gpu, overrides=[LABELLED])
    assert on_clients.evaluation_options == {"num_gpus": 0.2, "num_cpus": 0}
    assert on_clients.num_client_actors == 2
    on_server = plan(Node({"CPU": 4, "GPU": 1}, SERVER), gpu, overrides=[LABELLED])
    assert on_server.evaluation_options["label_selector"] == SERVER


METERED = ("defense.level=fltrust+canary", "evaluation.canary_path=refusals.jsonl", "evaluation.validation_path=clean.jsonl")


def test_canary_and_validation_stay_on_the_servers_nodes_whether_or_not_these_have_a_gpu():
    client, inside = Node({"CPU": 4, "GPU": 1}), {"label_selector": SERVER}
    without = plan(Node({"CPU": 4}, SERVER), client, overrides=[LABELLED, *METERED])
    assert without.server_data_options == {"num_cpus": 0} | inside
    assert without.evaluation_options == {"num_gpus": 0.2, "num_cpus": 0}
    assert not without.shares_model
    having = plan(Node({"CPU": 4, "GPU": 1}, SERVER), client, overrides=[LABELLED, *METERED])
    assert having.server_data_options == having.evaluation_options == {"num_gpus": pytest.approx(0.2 / 2), "num_cpus": 0} | inside
    on_cpus = plan(Node({"CPU": 4}, SERVER), {"CPU": 4}, overrides=[LABELLED, *METERED])
    assert on_cpus.server_data_options == {"num_cpus": 0} | inside
    unlabelled = plan({"CPU": 4, "GPU": 1}, overrides=METERED)
    assert unlabelled.server_data_options == unlabelled.evaluation_options == {"num_gpus": pytest.approx(0.2 / 2), "num_cpus": 0}


def test_a_server_that_is_missing_or_has_no_room_for_references_is_told():
    with pytest.raises(ClusterError, match=r"server_label=role=server: no node carries .* --labels role=server"):
        plan({"CPU": 2}, overrides=[LABELLED])
    with pytest.raises(ClusterError, match=r"no room for a reference client, which asks for num_gpus=0\.8"):
        plan(Node({"CPU": 4}, SERVER), Node({"CPU": 4, "GPU": 1}), overrides=[LABELLED, *LIVE, "cluster.gpus_per_client=0.8"])


def test_model_size_comes_from_the_files(base_config):
    assert model_bytes(base_config) == pytest.approx(1.8e6, rel=0.1)
    assert model_bytes(base_config.model_copy(update={"dtype": "bfloat16"})) == pytest.approx(0.9e6, rel=0.1)
    assert model_bytes(ModelConfig(path="some/hub-name")) == 0


def test_a_quantised_model_takes_its_bits_for_linear_weights_alone(tmp_path):
    """960 words x 64: tied embeddings, whole. A layer: 4 of attention, q and o 64 x 64, k and v 32 x 64; 3 of 128 x 64."""
    folder = save_model(tmp_path, "llama", hidden_size=64, intermediate_size=128, tie_word_embeddings=True)
    whole, linear, norms = 960 * 64, 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64), 5 * 64
    for bits, each in ((None, 2), ("8bit", 1), ("4bit", 0.516)):
        model = ModelConfig(path=str(folder), dtype="bfloat16", quantization=bits)
        assert model_bytes(model) == math.ceil(2 * (whole + norms) + each * linear)


def test_paper_defaults_fit_a_machine_with_one_gpu():
    assert plan_placement(RunConfig(), [Node({"CPU": 8, "GPU": 1, "memory": 32 * GIB})], ModelConfig()).num_client_actors == 1


def test_a_realignment_trains_on_the_servers_nodes_where_they_are_labelled():
    nodes = (Node({"CPU": 4}, SERVER), Node({"CPU": 4}))
    placement = plan(*nodes, overrides=[LABELLED, "realignment.steps=3"])
    assert (placement.num_reference_actors, placement.num_client_actors) == (1, 4)
    assert placement.reference_options["label_selector"] == SERVER
    assert plan(*nodes, overrides=[LABELLED]).num_reference_actors == 0
    assert plan({"CPU": 4}, overrides=["realignment.steps=3"]).num_reference_actors == 0
    with pytest.raises(ClusterError, match=r"have no room for a reference client.*realignment.steps=0"):
        plan(Node({"CPU": 0}, SERVER), Node({"CPU": 4}), overrides=[LABELLED, "realignment.steps=3"])
