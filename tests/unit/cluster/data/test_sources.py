"""Base model and probe of a run, or an error that names the command which makes them."""

import pytest

from actors.world.store import live_probe_folder, probe_folder, world_folder
from cluster.data.sources import find_sources
from cluster.errors import ConfigError
from tests.unit.cluster.data.builders import embedded_config, real_config, tokens_in


def test_a_real_model_without_a_probe_has_none_yet(tmp_path):
    assert find_sources(real_config("d", "defense.level=step"), tmp_path, {}, tokens_in(tmp_path)).probe_path is None


@pytest.mark.parametrize(
    ("level", "folder"), [("none", None), ("step", probe_folder), ("live", live_probe_folder), ("live+shadow", probe_folder)]
)
def test_the_embedded_probe_reads_every_layer_where_it_reads_updates_only(tmp_path, level, folder):
    found = find_sources(embedded_config(f"defense.level={level}", "probe.refresh_every=0"), tmp_path, {}, tokens_in(tmp_path))
    assert found.probe_path == (folder and str(folder(world_folder(0)).resolve()))


def test_a_world_that_is_not_built_names_the_command(tmp_path):
    with pytest.raises(ConfigError, match=r"safe-fedllm world build world\.seed=77"):
        find_sources(embedded_config("world.seed=77", f"world.path={tmp_path / 'w'}"), tmp_path, {}, tokens_in(tmp_path))
