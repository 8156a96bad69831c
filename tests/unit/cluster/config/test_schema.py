"""The rules of a configuration that span its parts: each message names the keys, their values and the fix."""

import pytest

from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

OWN_MODEL = ("model.path=m", "data.path=d", "clients.malicious=0")
STILL = ("realignment.steps=3", "realignment.learning_rate=null", "training.min_learning_rate=0")
EXCLUDED = "clients.exclude_malicious=true"
SVD = ("aggregation.averaging=svd", "aggregation.f=1")


def test_defaults_are_the_papers():
    config = RunConfig()
    assert (config.rounds, config.clients.count) == (25, 20)
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (8, 16, 0.05)
    assert (config.training.steps, config.training.batch_size) == (10, 16)
    assert (config.training.learning_rate, config.training.min_learning_rate) == (5e-5, 1e-6)
    assert (config.defense.step.decay, config.defense.step.adapt_rounds) == (0.95, 20)
    assert (config.defense.shadow.strength, config.defense.shadow.learning_rate) == (7, 5e-5)
    assert (config.defense.skip_below, config.defense.min_weight) == (0.2, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["clients.malicious=11"], r"clients\.malicious=11 is more than clients\.count=10"),
        (["clients.per_round=11"], r"clients\.per_round=11 is more than clients\.count=10"),
        (["clients.min_updates=11"], r"clients\.min_updates=11 is more than the 10 clients of a round"),
        ([EXCLUDED, "clients.malicious=10"], r"leaves 0 of clients\.count=10, and a round needs 1; lower clients\.malicious=10$"),
        (
            [EXCLUDED, "clients.malicious=5", "clients.min_updates=6"],
            r"leaves 5 .*needs 6; lower .*=5 or clients\.min_updates=6$",
        ),
        (["data.path=somewhere"], r"data\.path is set but model\.path is not"),
        (["model.path=somewhere"], r"model\.path is set but data\.path is not"),
        (["model.path=m", "data.path=d"], r"clients\.malicious=3 simulates attackers .* data\.malicious_path"),
        (["data.watch=true"], r"data\.watch=true needs a directory"),
        (
            [*OWN_MODEL, "data.watch=true", "clients.malicious=1", "data.malicious_path=x"],
            r"clients\.malicious=1 should be 0",
        ),
        (["data.partition.column=topic"], r"column=topic is no column of the embedded world.* by family"),
        ([*OWN_MODEL, "data.partition.by=column"], r"data\.partition\.by=column needs data\.partition\.column"),
        (["clients.recipes=[{}, {steps: 11}]"], r"recipes\.1\.steps=11 is more than training\.steps=10; set it to at most 10"),
        (
            [*OWN_MODEL, "clients.recipes=[{refusals: 0.2}]"],
            r"recipes\.0\.refusals=0\.2 is made by the embedded world.*data\.path",
        ),
        (["defense.level=shadow", "probe.refresh_every=2"], r"refresh_every=2 fits defense\.level=live only: at level shadow"),
        (["training.min_learning_rate=1"], r"training\.min_learning_rate=1 is above training\.learning_rate=0\.006"),
        (STILL, r"realignment\.steps=3 would change nothing .* set realignment\.learning_rate"),
        (["lora.r=1"], r"spectrum reads how an update spreads .* lora\.r=1 leaves it one; raise lora\.r"),
        (
            ["aggregation.max_share=0.05"],
            r"aggregation\.max_share=0\.05 is less than an equal part of 10 clients.*more than 0\.1",
        ),
        ([*SVD, "aggregation.rule=median"], r"averaging=svd .* while rule=median .* set aggregation\.rule=fedavg"),
        ([*SVD, "aggregation.pre=nnm"], r"averaging=svd .* while pre=nnm .* set aggregation\.pre=none"),
        ([*SVD, "aggregation.optimizer=fedadam"], r"averaging=svd .* while optimizer=fedadam .* set aggregation\.optimizer=none"),
        (["clients.attack=evil"], r"clients\.attack: .*'unaligned'.*'ratchet'.*got 'evil'"),
        (["attack.mixed.share=1.5"], r"attack\.mixed\.share"),
        (["clients.attack=alie", "clients.malicious=1"], r"attack=alie is made by at least 2 .*set clients\.malicious=2"),
        (["clients.attack=alie", "clients.malicious=2"], r"malicious=2 of 10 clients a round is no attack.*attack\.alie\.z"),
        (
            ["clients.attack=alie", "clients.count=20", "clients.malicious=2"],
            r"malicious=2 of 20 clients a round is no attack.*attack\.alie\.z",
        ),
        (
            ["clients.attack=sleeper", "attack.sleeper.from_round=10"],
            r"from_round=10 is never reached in rounds=10; set it to at most 9",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        [EXCLUDED, "clients.malicious=9"],
        ["clients.malicious=10"],
        ["clients.malicious=5", "clients.min_updates=6"],
        [*OWN_MODEL, "clients.recipes=[{steps: 5}]"],
        [*OWN_MODEL, "clients.malicious=2", "clients.attack=sign_flip"],
        [*STILL, "realignment.learning_rate=0.1"],
        ["lora.r=1", "defense.level=live+canary"],
        ["clients.attack=alie", "clients.malicious=0"],
        ["clients.attack=alie", "clients.malicious=2", "attack.alie.z=0.5"],
        ["clients.attack=alie", "clients.malicious=3"],
    ],
)
def test_values_that_go_together_are_accepted(overrides):
    load_config(None, overrides)


def test_learning_rate_follows_a_cosine_over_rounds():
    config = load_config(None, ["rounds=3", "training.learning_rate=0.01", "training.min_learning_rate=0.002"])
    assert [config.learning_rate(i) for i in range(3)] == pytest.approx([0.01, 0.006, 0.002])
    assert load_config(None, ["rounds=1"]).learning_rate(0) == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("override", "quorum"), [("clients.count=20", 11), ("clients.per_round=5", 3), ("clients.min_updates=2", 2)]
)
def test_the_default_quorum_is_more_than_half_of_the_rounds_clients(override, quorum):
    assert load_config(None, [override]).clients.quorum == quorum


@pytest.mark.parametrize(
    ("overrides", "first"),
    [(["clients.attack=sleeper"], 5), (["clients.attack=sleeper", "attack.sleeper.from_round=7"], 7), ([], 0)],
)
def test_a_sleeper_wakes_in_the_second_half_unless_a_round_is_set(overrides, first):
    assert load_config(None, overrides).first_attack_round == first


@pytest.mark.parametrize(
    ("overrides", "refreshes"),
    [
        (["defense.level=shadow"], False),
        (["defense.level=live"], True),
        (["defense.level=live", "probe.refresh_every=5"], True),
        (["defense.level=live", "probe.refresh_every=0"], False),
    ],
)
def test_level_live_refreshes_its_probe_unless_set_otherwise(overrides, refreshes):
    assert load_config(None, overrides).refreshes is refreshes
