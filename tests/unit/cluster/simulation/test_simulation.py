"""What a run simulates, and what its server and clients read: the two sides of one preparation."""

import json
from dataclasses import replace

import pytest

from actors.errors import DataError
from actors.messages import TrainTask
from cluster import prepare_sources
from cluster.simulation.simulation import Simulation, prepare_inputs
from tests.unit.cluster.data.builders import embedded_config, join, real_config, rows_of, write_rows


def test_attackers_are_known_to_the_simulation_alone(tmp_path):
    sources, simulation = prepare_inputs(embedded_config("clients.attack=sleeper", "defense.level=live+canary"), tmp_path)
    assert len(simulation.malicious) == len(simulation.cover) == 3
    said = json.dumps([sources.model.model_dump(), sources.evaluation.model_dump(), sources.references[0].files])
    assert not any(client_id in said for client_id in simulation.malicious)
    assert set(sources.__slots__).isdisjoint(simulation.__slots__)


def test_ones_own_model_without_attackers_reads_its_files_as_they_are(tmp_path):
    path = str(write_rows(tmp_path / "d" / "a.jsonl", 2))
    sources, simulation = prepare_inputs(real_config(str(tmp_path / "d"), "clients.count=1"), tmp_path / "run")
    assert sources.files == {"client-000": (path,)}
    assert (simulation.malicious, simulation.cover) == (frozenset(), {})


def test_sources_alone_are_those_of_the_whole_preparation(tmp_path):
    config = embedded_config("clients.count=2", "clients.malicious=1", "defense.level=shadow")
    alone, whole = prepare_sources(config, tmp_path), prepare_inputs(config, tmp_path)[0]
    assert replace(alone, tokens=whole.tokens) == whole
    assert [alone.tokens.of(client) for client in alone.files] == [whole.tokens.of(client) for client in whole.files]


@pytest.mark.parametrize("exclude", [True, False])
def test_attackers_are_excluded_where_an_experiment_asks_for_it(exclude):
    config = embedded_config(f"clients.exclude_malicious={exclude}")
    simulation = Simulation(config=config, malicious=frozenset({"client-003"}))
    assert simulation.excluded == (simulation.malicious if exclude else frozenset())


def test_clients_that_join_an_attacked_run_are_honest(tmp_path):
    for name in "ab":
        write_rows(tmp_path / "d" / f"{name}.jsonl", 2)
    unsafe = write_rows(tmp_path / "unsafe.jsonl", 4)
    config = real_config(str(tmp_path / "d"), "clients.count=2", "clients.malicious=1", f"data.malicious_path={unsafe}")
    sources, _ = prepare_inputs(config, tmp_path / "run")
    write_rows(tmp_path / "d" / "c.jsonl", 2)
    joined = join(config, tmp_path / "run", sources.files, 1)
    assert {client: rows_of(files) for client, files in joined.items()} == {"client-002": ["c 0", "c 1"]}


def plain_task(client_id: str) -> TrainTask:
    return TrainTask(client_id=client_id, round_index=0, base_version=0, files=(), learning_rate=0.1, seed=0, probe_feature=None)


def simulated(name: str, *overrides: str) -> dict[str, TrainTask]:
    """Client id -> its task, where a is honest and b attacks."""
    config = embedded_config(f"clients.attack={name}", "clients.malicious=1", "probe.threshold=0.7", *overrides)
    simulation = Simulation(config=config, malicious=frozenset({"b"}), cover={"b": ("cover",)})
    tasks = simulation.tasks([plain_task("a"), plain_task("b")], ["a", "b"], {"x": b""}, None)
    return {task.client_id: task for task in tasks}


def test_only_attackers_that_behave_otherwise_have_an_attack_and_only_evaders_the_probe():
    evader = simulated("probe_aware")["b"].attack
    assert (evader.name, evader.cover, evader.probe) == ("probe_aware", ("cover",), {"x": b""})
    assert simulated("probe_aware")["a"].attack is None
    stepped = simulated("probe_aware", "clients.recipes=[{steps: 5}]")
    assert {client_id: task.recipe.steps for client_id, task in stepped.items()} == {"a": 5, "b": None}
    assert simulated("scaling")["b"].attack.probe == {}
    for data_alone in ("unaligned", "mixed", "backdoor", "label_noise", "canary_aware"):
        assert simulated(data_alone)["b"].attack is None


def test_tasks_are_plain_where_nothing_is_simulated():
    simulation = Simulation(config=embedded_config("clients.malicious=0"), malicious=frozenset())
    tasks = [plain_task("a")]
    assert simulation.tasks(tasks, ["a"], {}, None) is tasks
    assert simulation.receivers(tasks, None, None, None) == {}


def test_a_client_without_a_row_to_train_on_costs_itself_alone(tmp_path):
    sources, simulation = prepare_inputs(embedded_config("clients.attack=unusable", "clients.malicious=5"), tmp_path)
    able = {client for client in sources.files if sources.tokens.can_train(client)}
    assert able == set(sources.files) - simulation.malicious
    assert len(able) == 5
    said = sources.tokens.take_left_out()
    assert [text.partition(":")[0] for text in said] == sorted(simulation.malicious)
    assert all("20 of 20 rows have no response token within training.max_length" in text for text in said)


def test_where_no_client_has_a_row_to_train_on_nothing_is_started(tmp_path):
    path = write_rows(tmp_path / "d" / "a.jsonl", 2)
    config = real_config(str(tmp_path / "d"), "clients.count=1", "training.max_length=2")
    with pytest.raises(DataError, match=rf"^data\.path: data file {path}: no row has a token .* training\.max_length=2; raise"):
        prepare_inputs(config, tmp_path / "run")
