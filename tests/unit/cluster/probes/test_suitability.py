"""A probe that does not quite fit a run is warned of, and one that rules itself out is refused."""

import logging
from pathlib import Path

import pytest

from actors.world.store import live_probe_folder, probe_folder, world_folder
from cluster.config.loading import load_config
from cluster.errors import ConfigError
from cluster.probes.suitability import load_suited

STEP, LIVE = "defense.level=step", "defense.level=live"
FIRST_LAYER, EVERY_LAYER = probe_folder(world_folder(0)), live_probe_folder(world_folder(0))


@pytest.fixture
def warnings(caplog):
    """The warnings that a run of these overrides starts with."""

    def warnings(folder: Path, *overrides: str) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_suited(load_config(None, overrides), str(folder))
        return [record.getMessage() for record in caplog.records]

    return warnings


def test_the_embedded_probes_suit_the_embedded_world(warnings):
    assert warnings(EVERY_LAYER) == []
    assert warnings(FIRST_LAYER, STEP) == []
    assert warnings(FIRST_LAYER, "defense.level=shadow") == []


def test_other_training_than_that_of_the_probes_samples_is_warned_of_with_both_values(warnings):
    (warning,) = warnings(FIRST_LAYER, STEP, "training.steps=5", "training.weight_decay=0.1", "training.learning_rate=0.5")
    assert f"the probe {FIRST_LAYER} was collected from other training" in warning
    assert ": training.steps=5 (probe: 10), training.weight_decay=0.1 (probe: 0.0); " in warning
    assert "learning_rate" not in warning
    (warning,) = warnings(EVERY_LAYER, LIVE, "aggregation.averaging=ffa")
    assert ": aggregation.averaging=ffa (probe: A trained); " in warning


def test_a_probe_of_the_first_layer_is_not_enough_for_level_live_and_the_run_is_warnings(warnings):
    (warning,) = warnings(FIRST_LAYER, "defense.level=live+canary")
    assert "defense.level=live+canary: " in warning
    assert "collect.modules=all" in warning
    assert "probe.feature=per_layer or all_layers" in warning


def test_a_shadow_at_another_rate_than_the_probes_samples_is_refused(warnings):
    message = r"defense.shadow.learning_rate=0.02 is not the 0.01 that the probe .* set defense.shadow.learning_rate=0.01, or"
    with pytest.raises(ConfigError, match=message):
        warnings(FIRST_LAYER, "defense.level=shadow", "defense.shadow.learning_rate=0.02")
    assert warnings(FIRST_LAYER, STEP, "defense.shadow.learning_rate=0.02") == []


def test_a_folder_without_a_probe_is_an_error_of_the_configuration(warnings, tmp_path):
    with pytest.raises(ConfigError, match=r"probe.path=.*: no probe.json there"):
        warnings(tmp_path, STEP)
