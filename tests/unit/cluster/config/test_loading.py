"""Configuration files and overrides, and messages that name the key and the fix."""

from pathlib import Path

import pytest
import yaml

from actors.config import Recipe
from cluster.config.loading import EMBEDDED, describe_keys, dump_config, known_keys, load_config, split_arguments
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

FIXED_KEYS = {
    "seed",
    "rounds",
    "clients.count",
    "clients.malicious",
    "defense.level",
    "aggregation.rule",
    "probe.path",
    "probe.threshold",
    "training.steps",
    "training.batch_size",
    "training.learning_rate",
    "cluster.address",
    "world.seed",
}


def test_without_a_file_the_embedded_world_is_loaded():
    config = load_config(None)
    assert config.is_embedded
    assert (config.clients.count, config.clients.malicious, config.defense.level) == (10, 3, "live+canary+spectrum+consensus")


def test_keys_that_others_use_exist():
    assert set(known_keys()) >= FIXED_KEYS


def test_every_key_is_listed_with_its_default():
    lines = list(describe_keys())
    assert len(lines) == len(list(known_keys()))
    assert any(line.startswith("training.learning_rate = 5e-05   (embedded world: 0.006)") for line in lines)


def test_overrides_are_typed_and_win_over_the_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("rounds: 3\nclients: {count: 4}\n")
    config = load_config(str(path), ["rounds=5", "training.learning_rate=3e-4", "probe.threshold=null", "defense.level=step"])
    assert (config.rounds, config.clients.count, config.training.learning_rate) == (5, 4, 3e-4)
    assert config.probe.threshold is None
    assert config.defense.level == "step"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("clients.malicous=2", ["unknown key clients.malicous", "did you mean clients.malicious?"]),
        ("round=2", ["unknown key round", "did you mean rounds?"]),
        ("zzzzqqqq=2", ["unknown key zzzzqqqq", "safe-fedllm keys"]),
        ("rounds=many", ["rounds: ", "got 'many'"]),
        ("rounds=0", ["rounds: ", "greater than 0", "got 0"]),
        ("realignment.refusal_share=2", ["realignment.refusal_share: ", "less than or equal to 1", "got 2"]),
        ("defense.level=strong", ["defense.level: ", "'strong' is no level", "there are none, step", "shadow"]),
        ("probe.threshold=1.5", ["probe.threshold: ", "less than 1", "got 1.5"]),
        ("clients.recipes={steps: 5}", ["clients.recipes: ", "valid list"]),
        ("clients.recipes=[{}, {refusal: 0.5}]", ["unknown key clients.recipes.1.refusal", "mean clients.recipes.1.refusals?"]),
        ("clients.recipes=[{optimizer: lion}]", ["clients.recipes.0.optimizer: ", "'adagrad'", "got 'lion'"]),
        ("clients.recipes=[{learning_rate_factor: 0}]", ["clients.recipes.0.learning_rate_factor: ", "greater than 0"]),
        ("aggregation.optimizer=adam", ["aggregation.optimizer: ", "'fedadam'", "got 'adam'"]),
        ("aggregation.averaging=mean", ["aggregation.averaging: ", "'svd'", "got 'mean'"]),
        ("training.proximal_mu=-1", ["training.proximal_mu: ", "got -1"]),
        ("rounds.x=1", ["rounds is a value, not a section"]),
        ("rounds", ["'rounds' is not of the form key=value"]),
        ("rounds=[", ["rounds: the value '[' is not YAML"]),
    ],
)
def test_bad_overrides_name_the_key_and_the_fix(override, parts):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for part in parts:
        assert part in str(caught.value)


def test_recipes_are_written_on_the_command_line_as_yaml_or_json():
    yaml_form = "clients.recipes=[{learning_rate_factor: 0.5}, {steps: 5, optimizer: sgd}]"
    json_form = 'clients.recipes=[{"learning_rate_factor":0.5},{"steps":5,"optimizer":"sgd"}]'
    expected = [Recipe(learning_rate_factor=0.5), Recipe(steps=5, optimizer="sgd")]
    assert load_config(None, [yaml_form]).clients.recipes == load_config(None, [json_form]).clients.recipes == expected


def test_several_faults_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["rounds=x", "seed=y"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("text", "message"), [("- 1\n", "should hold keys and values"), ("a: [", "is not YAML")])
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config(Path("nowhere.yaml"))


def test_the_resolved_configuration_loads_to_the_same(tmp_path):
    config = load_config(None, ["rounds=7"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_arguments_are_a_file_and_overrides_in_any_order():
    assert split_arguments(["rounds=2", "a.yaml", "seed=1"]) == (Path("a.yaml"), ["rounds=2", "seed=1"])
    assert split_arguments([]) == (None, [])
    with pytest.raises(ConfigError, match="one configuration file at most"):
        split_arguments(["a.yaml", "b.yaml"])


@pytest.mark.parametrize("path", sorted(EMBEDDED.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    assert load_config(path).rounds >= 10


def test_embedded_yaml_states_only_what_differs():
    stated = yaml.safe_load(EMBEDDED.read_text())
    defaults = RunConfig().model_dump(mode="json")

    def compare(part, default, prefix=""):
        for key, value in part.items():
            if isinstance(value, dict):
                compare(value, default[key], f"{prefix}{key}.")
            elif f"{prefix}{key}" != "defense.level":
                assert value != default[key], f"{prefix}{key} repeats the default"

    compare(stated, defaults)
