"""The folder that a new federation begins with."""

from pathlib import Path

import pytest

from cluster.config.loading import EMBEDDED, load_config
from cluster.data.starter import needed_keys
from cluster.errors import ConfigError
from cluster.starting.project import write_project


def test_the_embedded_start_is_the_shipped_configuration(tmp_path):
    assert load_config(write_project(tmp_path / "mine", None)) == load_config(EMBEDDED)


@pytest.mark.parametrize("model", ["models/mine", 'odd "name": # no comment', "$data", "a\\b"])
def test_the_own_start_reads_model_and_data_as_they_are_named(tmp_path, model):
    folder = tmp_path / 'my "data"'
    config = load_config(write_project(folder, model))
    assert config.model.path == model
    assert config.data.path == str(folder / "data" / "clients")
    assert Path(config.data.path).is_dir()
    assert "collect.benign_path" in needed_keys(config)  # what only comments name, starter data stands in for
    assert config.clients.malicious == 0
    assert "instruction" in (folder / "data" / "README.md").read_text()


def test_a_folder_with_anything_in_it_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=f"{tmp_path} is not empty"):
        write_project(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
