"""What an earlier command left: decides whether a cell begins, goes on, is done, or is another run."""

import json

import pytest

from cluster.comparison.fingerprints import config_hash, differences
from cluster.comparison.stored import drop_surplus, find_stage, find_stages
from cluster.config.loading import dump_config, load_config
from cluster.errors import ConfigError
from tests.unit.cluster.comparison.builders import plan


def write_run(folder, config, *, finished=False, **summary):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    if finished or summary:
        ended = {"rounds": config.rounds, "rounds_done": config.rounds, "stopped_below": None, **summary}
        (folder / "summary.json").write_text(json.dumps(ended))


def test_stages_of_a_cell(tmp_path):
    config = load_config(None, ["training.learning_rate=1e-3"])
    assert find_stage(tmp_path / "none", config) == "new"
    (tmp_path / "empty").mkdir()
    assert find_stage(tmp_path / "empty", config) == "new"
    write_run(tmp_path / "begun", config)
    assert find_stage(tmp_path / "begun", config) == "unfinished"
    write_run(tmp_path / "done", config, finished=True)
    assert find_stage(tmp_path / "done", config) == "finished"


def test_a_run_that_somebody_stopped_is_unfinished_and_keeps_what_it_needs(tmp_path):
    config = load_config(None, ["rounds=3"])
    write_run(tmp_path / "run", config, rounds_done=2)
    (tmp_path / "run" / "checkpoints").mkdir()
    assert find_stage(tmp_path / "run", config) == "unfinished"
    with pytest.raises(ValueError, match="run is not finished"):
        drop_surplus(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_a_run_whose_safety_fell_under_its_bound_is_finished(tmp_path):
    config = load_config(None, ["rounds=3", "evaluation.stop_below=0.9"])
    write_run(tmp_path / "run", config, rounds_done=2, stopped_below=0.9)
    assert find_stage(tmp_path / "run", config) == "finished"
    drop_surplus(tmp_path / "run")


def test_another_configuration_is_an_error_that_names_the_key(tmp_path):
    write_run(tmp_path / "run", load_config(None, ["rounds=3"]), finished=True)
    with pytest.raises(ConfigError, match=r"run was run with rounds=3, asked is 4; training.steps=\d+, asked is 1; name another"):
        find_stage(tmp_path / "run", load_config(None, ["rounds=4", "training.steps=1"]))


def test_a_directory_without_a_readable_run_is_an_error(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run"):
        find_stage(tmp_path / "notes", load_config(None))
    write_run(tmp_path / "old", load_config(None))
    (tmp_path / "old" / "config.yaml").write_text("seeed: 1")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_stage(tmp_path / "old", load_config(None))


def test_every_cell_with_another_run_is_told(tmp_path):
    cells = plan("seeds=0-2")
    write_run(tmp_path / "seed-0", load_config(None, ["rounds=3"]))
    write_run(tmp_path / "seed-1", cells[1].config)
    write_run(tmp_path / "seed-2", load_config(None, ["seed=3"]))
    with pytest.raises(ConfigError) as caught:
        find_stages(cells, tmp_path)
    assert "2 of 3 cells cannot run" in str(caught.value)
    assert "seed 0: " in str(caught.value)
    assert "seed 2: " in str(caught.value)
    (tmp_path / "seed-0" / "config.yaml").unlink()
    (tmp_path / "seed-2" / "config.yaml").write_text(dump_config(cells[2].config))
    (tmp_path / "seed-0").rmdir()
    assert find_stages(cells, tmp_path) == ["new", "unfinished", "unfinished"]


def test_what_changes_no_result_is_no_difference():
    other = ["name=other", "cluster.client_actors=3", "cluster.address=auto", "checkpoint.keep=5"]
    assert differences(load_config(None), load_config(None, other)) == []
    assert differences(load_config(None), load_config(None, ["checkpoint.path=s3://b"])) == [
        "checkpoint.path=None, asked is s3://b"
    ]


def test_the_hash_leaves_out_the_seed_and_what_changes_no_result():
    base = config_hash(load_config(None))
    assert len(base) == 16
    for same in ("seed=5", "name=x", "cluster.client_actors=3", "checkpoint.path=s3://b"):
        assert config_hash(load_config(None, [same])) == base
    for other in ("rounds=9", "world.seed=1", "defense.level=none", "training.learning_rate=0.02"):
        assert config_hash(load_config(None, [other])) != base


def test_a_finished_run_without_its_surplus_is_finished_still(tmp_path):
    config, folder = load_config(None), tmp_path / "run"
    write_run(folder, config, finished=True)
    for name in ("checkpoints/round-00001", "data", "probes/v1", "adapter"):
        (folder / name).mkdir(parents=True)
    (folder / "evaluation.parquet").touch()
    drop_surplus(folder)
    drop_surplus(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "config.yaml", "evaluation.parquet", "summary.json"]
    assert find_stage(folder, config) == "finished"


def test_an_unfinished_run_keeps_what_it_needs(tmp_path):
    write_run(tmp_path / "run", load_config(None))
    (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="run is not finished"):
        drop_surplus(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_dir()
