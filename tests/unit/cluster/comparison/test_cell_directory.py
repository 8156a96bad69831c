"""What an earlier command left in a cell's directory: it decides whether the cell begins, resumes, is done, or is another run."""

import json
from contextlib import nullcontext

import pytest
from rich.console import Console

from cluster.comparison.cell_directory import drop_surplus, find_stage
from cluster.comparison.compare import run_comparison
from cluster.config.loading import dump_config, load_config
from cluster.errors import ConfigError
from cluster.reporting.callback import RunCallback
from tests.unit.cluster.comparison.builders import plan

BOUND = ["rounds=3", "evaluation.stop_below=0.9"]


def write_run(folder, config, **summary):
    """A run that has begun; with a summary, one that has ended: `write_run(folder, config, rounds_done=2)`."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    if summary:
        (folder / "summary.json").write_text(json.dumps({"rounds": config.rounds, "stopped_below": None, **summary}))


def test_a_directory_without_files_is_a_new_cell(tmp_path):
    assert find_stage(tmp_path / "none", load_config(None)) == "new"
    (tmp_path / "empty").mkdir()
    assert find_stage(tmp_path / "empty", load_config(None)) == "new"


@pytest.mark.parametrize("summary", [{}, {"rounds_done": 2}], ids=["killed", "stopped by somebody"])
def test_an_unfinished_run_keeps_what_it_needs(tmp_path, summary):
    config, folder = load_config(None, BOUND), tmp_path / "run"
    write_run(folder, config, **summary)
    (folder / "checkpoints").mkdir()
    assert find_stage(folder, config) == "unfinished"
    drop_surplus(folder)
    assert (folder / "checkpoints").is_dir()


@pytest.mark.parametrize("summary", [{"rounds_done": 3}, {"rounds_done": 2, "stopped_below": 0.9}], ids=["all rounds", "unsafe"])
def test_a_finished_run_without_its_surplus_is_finished_still(tmp_path, summary):
    config, folder = load_config(None, BOUND), tmp_path / "run"
    write_run(folder, config, **summary)
    for name in ("checkpoints/round-00001", "data", "probes/v1", "adapter"):
        (folder / name).mkdir(parents=True)
    (folder / "evaluation.parquet").touch()
    drop_surplus(folder)
    drop_surplus(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "config.yaml", "evaluation.parquet", "summary.json"]
    assert find_stage(folder, config) == "finished"


def test_another_configuration_is_an_error_that_names_the_key(tmp_path):
    write_run(tmp_path / "run", load_config(None, ["rounds=3"]), rounds_done=3)
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


def test_every_cell_with_another_run_is_named(tmp_path):
    cells = plan("seeds=0-2")
    write_run(tmp_path / "seed-0", load_config(None, ["rounds=3"]))
    write_run(tmp_path / "seed-1", cells[1].config)
    write_run(tmp_path / "seed-2", load_config(None, ["seed=3"]))
    with pytest.raises(ConfigError, match=r"^2 of 3 cells cannot run.*\nseed 0: .*\nseed 2: "):
        run_comparison(cells, tmp_path, Console(), lambda console, label: nullcontext(RunCallback()))
    (tmp_path / "seed-0" / "config.yaml").unlink()
    (tmp_path / "seed-0").rmdir()
    (tmp_path / "seed-2" / "config.yaml").write_text(dump_config(cells[2].config))
    assert [find_stage(tmp_path / cell.name, cell.config) for cell in cells] == ["new", "unfinished", "unfinished"]
