"""Configuration: files, overrides, and messages that name the key and the fix."""

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


def test_defaults_are_the_papers():
    config = RunConfig()
    assert (config.rounds, config.clients.count) == (25, 20)
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (8, 16, 0.05)
    assert (config.training.steps, config.training.batch_size) == (10, 16)
    assert (config.training.learning_rate, config.training.min_learning_rate) == (5e-5, 1e-6)
    assert (config.defense.step.decay, config.defense.step.adapt_rounds) == (0.95, 20)
    assert (config.defense.shadow.strength, config.defense.shadow.learning_rate) == (7, 5e-5)
    assert (config.defense.skip_below, config.defense.min_weight) == (0.2, 0)


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
        ("clients.malicious=11", ["clients.malicious=11 is more than clients.count=10"]),
        ("clients.per_round=11", ["clients.per_round=11 is more than clients.count=10"]),
        ("clients.min_updates=11", ["clients.min_updates=11 is more than the 10 clients of a round"]),
        ("realignment.refusal_share=2", ["realignment.refusal_share: ", "less than or equal to 1", "got 2"]),
        ("defense.level=strong", ["defense.level: ", "'strong' is no level", "there are none, step", "shadow"]),
        ("probe.threshold=1.5", ["probe.threshold: ", "less than 1", "got 1.5"]),
        ("training.min_learning_rate=1", ["training.min_learning_rate=1 is above training.learning_rate=0.006"]),
        ("data.path=somewhere", ["data.path is set but model.path is not"]),
        ("model.path=somewhere", ["model.path is set but data.path is not"]),
        ("data.partition.column=topic", ["data.partition.column=topic is no column of the embedded world", "by family"]),
        ("clients.recipes={steps: 5}", ["clients.recipes: ", "valid list"]),
        ("clients.recipes=[{}, {steps: 11}]", ["clients.recipes.1.steps=11 is more than training.steps=10", "at most 10"]),
        ("clients.recipes=[{}, {refusal: 0.5}]", ["unknown key clients.recipes.1.refusal", "mean clients.recipes.1.refusals?"]),
        ("clients.recipes=[{optimizer: lion}]", ["clients.recipes.0.optimizer: ", "'adagrad'", "got 'lion'"]),
        ("clients.recipes=[{learning_rate_factor: 0}]", ["clients.recipes.0.learning_rate_factor: ", "greater than 0"]),
        ("aggregation.optimizer=adam", ["aggregation.optimizer: ", "'fedadam'", "got 'adam'"]),
        ("aggregation.averaging=mean", ["aggregation.averaging: ", "'svd'", "got 'mean'"]),
        ("aggregation.max_share=0.05", ["aggregation.max_share=0.05 is less than an equal part of 10 clients", "more than 0.1"]),
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["clients.malicious=10"], "exclude_malicious=true leaves 0 of clients.count=10, and a round needs 1; lower clients.mal"),
        (["clients.malicious=5", "clients.min_updates=6"], "leaves 5 of .*needs 6; lower .*=5 or clients.min_updates=6$"),
    ],
)
def test_a_round_needs_more_clients_than_the_excluded_attackers_leave(overrides, message):
    load_config(None, overrides)
    with pytest.raises(ConfigError, match=message):
        load_config(None, ["clients.exclude_malicious=true", *overrides])
    assert load_config(None, ["clients.exclude_malicious=true", "clients.malicious=9"]).clients.exclude_malicious


def test_a_realignment_at_rate_0_is_refused():
    still = ["realignment.steps=3", "realignment.learning_rate=null", "training.min_learning_rate=0"]
    with pytest.raises(ConfigError, match=r"realignment.steps=3 would change nothing .* set realignment.learning_rate"):
        load_config(None, still)
    assert load_config(None, [*still, "realignment.learning_rate=0.1"]).realignment.learning_rate == 0.1


def test_a_lora_of_one_direction_has_no_spectrum():
    with pytest.raises(ConfigError, match=r"spectrum reads how an update spreads .* lora.r=1 leaves it one; raise lora.r"):
        load_config(None, ["lora.r=1"])
    assert load_config(None, ["lora.r=1", "defense.level=live+canary"]).lora.r == 1


@pytest.mark.parametrize(
    ("setting", "fix"), [("rule=median", "rule=fedavg"), ("pre=nnm", "pre=none"), ("optimizer=fedadam", "optimizer=none")]
)
def test_products_are_averaged_by_fedavg_alone(setting, fix):
    with pytest.raises(ConfigError, match=rf"averaging=svd .* while {setting} .* set aggregation\.{fix}"):
        load_config(None, ["aggregation.averaging=svd", "aggregation.f=1", f"aggregation.{setting}"])


def test_simulated_attackers_on_a_real_model_need_their_data():
    with pytest.raises(ConfigError, match=r"clients\.malicious=3 simulates attackers .* data\.malicious_path"):
        load_config(None, ["model.path=m", "data.path=d"])


OWN_MODEL = ["model.path=m", "data.path=d", "clients.malicious=0"]


def test_ones_own_data_is_partitioned_by_a_column_that_is_named():
    with pytest.raises(ConfigError, match=r"data\.partition\.by=column needs data\.partition\.column"):
        load_config(None, [*OWN_MODEL, "data.partition.by=column"])


def test_refusals_are_made_by_the_embedded_world_alone():
    with pytest.raises(ConfigError, match=r"clients\.recipes\.0\.refusals=0\.2 is made by the embedded world.*data\.path"):
        load_config(None, [*OWN_MODEL, "clients.recipes=[{refusals: 0.2}]"])
    assert load_config(None, [*OWN_MODEL, "clients.recipes=[{steps: 5}]"]).clients.recipes == [Recipe(steps=5)]


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


def test_learning_rate_follows_a_cosine_over_rounds():
    config = load_config(None, ["rounds=3", "training.learning_rate=0.01", "training.min_learning_rate=0.002"])
    assert [config.learning_rate(i) for i in range(3)] == pytest.approx([0.01, 0.006, 0.002])
    assert load_config(None, ["rounds=1"]).learning_rate(0) == pytest.approx(0.006)


def test_the_default_quorum_is_more_than_half_of_the_rounds_clients():
    assert RunConfig().clients.quorum == 11
    assert load_config(None, ["clients.per_round=5"]).clients.quorum == 3
    assert load_config(None, ["clients.min_updates=2"]).clients.quorum == 2


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


def test_level_live_refreshes_its_probe_every_round_unless_told_otherwise():
    assert load_config(None, ["defense.level=shadow"]).refresh_every == 0
    assert load_config(None, ["defense.level=live"]).refresh_every == 1
    assert load_config(None, ["defense.level=live", "probe.refresh_every=5"]).refresh_every == 5
    assert load_config(None, ["defense.level=live", "probe.refresh_every=0"]).refresh_every == 0


def test_a_refresh_at_another_level_is_refused():
    with pytest.raises(ConfigError, match=r"probe.refresh_every=2 fits defense.level=live only: at level shadow"):
        load_config(None, ["defense.level=shadow", "probe.refresh_every=2"])
