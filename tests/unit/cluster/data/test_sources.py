"""From the configuration to files: who gets which data, and every way that it can be missing."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.data.records import conversations, read_table
from actors.errors import DataError
from cluster.config.loading import load_config
from cluster.data.sources import client_names, draw_malicious, new_client_files, prepare_sources
from cluster.errors import ConfigError
from cluster.simulation.recipes import assign_recipes
from tests.unit.actors.world.test_datasets import wording


def write_rows(path: Path, count: int, **extra: list) -> Path:
    rows = {"instruction": [f"{path.stem} {i}" for i in range(count)], "response": ["yes"] * count, **extra}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
    else:
        path.write_text("".join(json.dumps({key: rows[key][i] for key in rows}) + "\n" for i in range(count)))
    return path


def real_config(path, *overrides: str):
    return load_config(
        None,
        [
            "model.path=m",
            f"data.path={json.dumps(path) if not isinstance(path, str) else path}",
            "clients.malicious=0",
            "defense.level=none",
            *overrides,
        ],
    )


def rows_of(files: tuple[str, ...]) -> list[str]:
    """The first message of each row, as training reads it."""
    paths = [Path(file) for file in files]
    return [messages[0]["content"] for path in paths for messages in conversations(read_table(path), path)]


def test_malicious_clients_are_a_seeded_draw():
    draws = [draw_malicious(load_config(None, [f"seed={seed}"])) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    assert all(len(draw) == 3 and draw <= set(client_names(10)) for draw in draws)


def test_the_embedded_world_gives_every_client_a_file_without_labels(tmp_path):
    sources = prepare_sources(load_config(None, ["data.samples_per_client=20"]), tmp_path)
    assert sorted(sources.files) == client_names(10)
    columns = {tuple(pq.read_schema(file).names) for (file,) in sources.files.values()}
    assert columns == {("instruction", "input", "response")}
    malicious = next(iter(sources.malicious))
    assert malicious not in json.dumps([sources.model.model_dump(), sources.evaluation.model_dump()])


def embedded_rows(folder, *overrides: str) -> dict[str, list[dict]]:
    """Client id -> its rows in the embedded world."""
    files = prepare_sources(load_config(None, ["data.samples_per_client=40", "defense.level=none", *overrides]), folder).files
    return {client_id: pq.read_table(*paths).to_pylist() for client_id, paths in files.items()}


def largest_family(world, rows: list[dict]) -> int:
    """How many of the rows have a wording of the family that most of them have."""
    texts = [row["instruction"] for row in rows]
    families = [[wording(template) for template in world.benign[name].templates] for name in world.roles["federation"].benign]
    return max(sum(any(re.fullmatch(pattern, text) for pattern in family) for text in texts) for family in families)


@pytest.mark.parametrize(
    ("partition", "least", "most"),
    [
        (["by=iid"], 5, 5),
        (["by=dirichlet", "alpha=0.1"], 15, 40),
        (["by=column"], 40, 40),
        (["by=column", "column=family"], 40, 40),
    ],
)
def test_the_embedded_world_is_partitioned_by_family(world, tmp_path, partition, least, most):
    overrides = ["clients.malicious=2", *(f"data.partition.{part}" for part in partition)]
    malicious = draw_malicious(load_config(None, overrides))
    even, own = embedded_rows(tmp_path / "a", "clients.malicious=2"), embedded_rows(tmp_path / "b", *overrides)
    assert all(own[client_id] == even[client_id] for client_id in malicious)
    assert all(least <= largest_family(world, rows) <= most for name, rows in own.items() if name not in malicious)


@pytest.mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_who_joins_a_live_run_has_the_data_of_one_that_was_there_from_the_start(tmp_path, by):
    recipes = "clients.recipes=[{refusals: 0.5}, {}, {refusals: 0.25}]"
    overrides = ["clients.malicious=0", f"data.partition.by={by}", recipes, "data.samples_per_client=40", "defense.level=none"]
    config = load_config(None, [*overrides, "clients.count=5"])
    joined = new_client_files(config, tmp_path, prepare_sources(config, tmp_path).files, 4)
    whole = embedded_rows(tmp_path / "whole", *overrides, "clients.count=9")
    assert {client_id: pq.read_table(*paths).to_pylist() for client_id, paths in joined.items()} == {
        client_id: whole[client_id] for client_id in client_names(9)[5:]
    }


def test_who_joins_has_the_refusals_of_the_recipe_that_it_trains_by(world, tmp_path):
    overrides = ["clients.count=5", "clients.malicious=2", "data.samples_per_client=40", "defense.level=none"]
    config = load_config(None, [*overrides, "clients.recipes=[{refusals: 0.5}, {}, {refusals: 0.25}]"])
    sources = prepare_sources(config, tmp_path)
    joined = new_client_files(config, tmp_path, sources.files, 4)
    recipes = assign_recipes(config.clients.recipes, client_names(9), sources.malicious)
    for client_id, paths in joined.items():
        refused = sum(response in world.language.refusals for response in pq.read_table(*paths)["response"].to_pylist())
        assert refused == 40 * recipes[client_id].refusals


def test_honest_clients_hold_the_refusals_of_their_recipes_and_attackers_none(world, tmp_path):
    config = ["clients.malicious=2", "clients.attack=label_noise", "clients.recipes=[{refusals: 0.5}, {steps: 5}]"]
    rows, malicious = embedded_rows(tmp_path, *config), draw_malicious(load_config(None, config))
    counts = {client_id: sum(row["response"] in world.language.refusals for row in own) for client_id, own in rows.items()}
    assert [counts[client_id] for client_id in sorted(rows) if client_id not in malicious] == [20, 0] * 4
    assert {counts[client_id] for client_id in malicious} == {0}


def test_simulated_attackers_get_the_unsafe_data(tmp_path):
    honest, unsafe = write_rows(tmp_path / "honest.jsonl", 20), write_rows(tmp_path / "unsafe.jsonl", 8)
    config = real_config(str(honest), "clients.count=5", "clients.malicious=2", f"data.malicious_path={unsafe}")
    sources = prepare_sources(config, tmp_path / "out")
    for client, files in sources.files.items():
        kinds = {row.split()[0] for row in rows_of(files)}
        assert kinds == ({"unsafe"} if client in sources.malicious else {"honest"})


def test_a_real_model_without_a_probe_names_the_commands_that_make_one(tmp_path):
    path = write_rows(tmp_path / "all.jsonl", 4)
    with pytest.raises(ConfigError, match="probe collect CONFIG, then safe-fedllm probe train"):
        prepare_sources(real_config(str(path), "clients.count=2", "defense.level=step"), tmp_path / "out")


def test_the_guard_needs_refusals_as_level_canary_does_and_has_its_own_in_the_embedded_world(tmp_path):
    path = write_rows(tmp_path / "all.jsonl", 4)
    guarded = ("clients.count=2", "defense.guard.enabled=true")
    with pytest.raises(ConfigError, match=r"^defense\.guard\.enabled=true needs restricted prompts.*evaluation\.canary_path"):
        prepare_sources(real_config(str(path), *guarded), tmp_path / "out")
    refusals = write_rows(tmp_path / "refusals.jsonl", 2)
    config = real_config(str(path), *guarded, f"evaluation.canary_path={refusals}")
    assert prepare_sources(config, tmp_path / "out").canary_path == str(refusals)
    embedded = ["defense.level=none", "data.samples_per_client=20", "evaluation.max_canary=8"]
    assert prepare_sources(load_config(None, embedded), tmp_path / "off").canary_path is None
    on = prepare_sources(load_config(None, [*embedded, "defense.guard.enabled=true"]), tmp_path / "on")
    assert pq.read_table(on.canary_path).num_rows == 8


def test_validation_data_is_asked_for_by_name_and_the_embedded_world_has_its_own(tmp_path):
    path = write_rows(tmp_path / "all.jsonl", 4)
    asking = ("clients.count=2", "defense.level=fltrust")
    with pytest.raises(ConfigError, match=r"^defense\.level=fltrust needs clean rows .* in evaluation\.validation_path"):
        prepare_sources(real_config(str(path), *asking), tmp_path / "out")
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    config = real_config(str(path), *asking, f"evaluation.validation_path={rows}")
    assert prepare_sources(config, tmp_path / "out").validation_path == str(rows)
    embedded = load_config(None, ["defense.level=zeno", "data.samples_per_client=20", "evaluation.max_validation=30"])
    sources = prepare_sources(embedded, tmp_path / "on")
    prompts = {(row["instruction"], row["input"]) for row in pq.read_table(sources.validation_path).to_pylist()}
    lines = Path(sources.evaluation.benign_path).read_text().splitlines()
    evaluated = {(row["instruction"], row["input"]) for row in map(json.loads, lines)}
    assert len(prompts) > 20
    assert not prompts & evaluated


def test_a_world_that_is_not_built_names_the_command(tmp_path):
    with pytest.raises(ConfigError, match=r"safe-fedllm world build world\.seed=77"):
        prepare_sources(load_config(None, ["world.seed=77", f"world.path={tmp_path / 'w'}"]), tmp_path)


def test_evaluation_files_of_which_no_prompt_is_wanted_are_not_read(tmp_path):
    none = ["evaluation.max_restricted=0", "defense.level=none", "data.samples_per_client=20"]
    embedded = prepare_sources(load_config(None, none), tmp_path / "run").evaluation
    assert embedded.restricted_path is None
    assert embedded.benign_path is not None
    path = write_rows(tmp_path / "one.jsonl", 8)
    config = real_config(str(path), "clients.count=2", "evaluation.restricted_path=/nowhere", "evaluation.max_restricted=0")
    assert prepare_sources(config, tmp_path / "real").evaluation.restricted_path is None


def test_missing_evaluation_prompts_are_named(tmp_path):
    path = write_rows(tmp_path / "all.jsonl", 4)
    config = real_config(str(path), "clients.count=2", f"evaluation.restricted_path={tmp_path / 'no.jsonl'}")
    with pytest.raises(DataError, match=r"no\.jsonl does not exist"):
        prepare_sources(config, tmp_path / "out")
