"""The cells that axes span, each with its configuration, its hash and its directory."""

import pytest

from cluster.comparison.cells import config_hash, defense_of, differences, directory_name, for_each_cell, split_axes
from cluster.config.loading import load_config
from cluster.errors import ConfigError
from tests.unit.cluster.comparison.builders import plan

WITHOUT_EFFECT = ("name=other", "cluster.client_actors=3", "cluster.address=auto", "checkpoint.keep=5")


def test_axes_are_taken_out_in_a_fixed_order_and_ranges_are_expanded():
    axes, rest = split_axes(["seeds=0-2,7,1", "rounds=2", "defenses=none,live+canary"])
    assert list(axes.items()) == [("defenses", ["none", "live+canary"]), ("seeds", ["0", "1", "2", "7"])]
    assert rest == ["rounds=2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rounds=2"], "compare needs an axis: defenses=a,b"),
        (["seeds=0", "seeds=1"], "seeds= is given twice"),
        (["seeds=0,,1"], "a value is missing; write seeds=a,b or 0-9"),
        (["defenses="], "a value is missing"),
        (["seeds=3-1"], "a value is missing"),
    ],
)
def test_axes_that_cannot_be_read(arguments, message):
    with pytest.raises(ConfigError, match=message):
        split_axes(arguments)


def test_every_combination_is_a_cell_and_the_seed_varies_fastest():
    cells = plan("seeds=0,1", "defenses=none,shadow", "malicious=3")
    assert [cell.label for cell in cells] == [
        "none, 3 malicious, seed 0",
        "none, 3 malicious, seed 1",
        "shadow, 3 malicious, seed 0",
        "shadow, 3 malicious, seed 1",
    ]
    assert [cell.name for cell in cells][:2] == ["none_3-malicious_seed-0", "none_3-malicious_seed-1"]
    assert [cell.group for cell in cells] == ["none, 3 malicious"] * 2 + ["shadow, 3 malicious"] * 2
    assert [cell.config.seed for cell in cells] == [0, 1, 0, 1]


def test_seeds_alone_are_one_group_named_after_the_level():
    assert {cell.group for cell in plan("seeds=0-2")} == {"shadow"}


@pytest.mark.parametrize(
    ("value", "level", "rule"),
    [
        ("step", "step", "fedavg"),
        ("median", "none", "median"),
        ("fedavg", "none", "fedavg"),
        ("shadow:krum", "shadow", "krum"),
    ],
)
def test_a_defense_is_a_level_a_rule_or_both(value, level, rule):
    (cell,) = plan(f"defenses={value}")
    assert (cell.config.defense.level, cell.config.aggregation.rule) == (level, rule)


@pytest.mark.parametrize(
    ("value", "level", "excluded", "steps", "rule"),
    [
        ("oracle", "none", True, 0, "fedavg"),
        ("realignment", "none", False, 15, "fedavg"),
        ("live+canary+realignment", "live+canary", False, 15, "fedavg"),
        ("oracle:median", "none", True, 0, "median"),
        ("none", "none", False, 0, "fedavg"),
    ],
)
def test_baselines_stand_among_the_defenses(value, level, excluded, steps, rule):
    (cell,) = plan(f"defenses={value}")
    config = cell.config
    assert (config.defense.level, config.aggregation.rule) == (level, rule)
    assert (config.clients.exclude_malicious, config.realignment.steps) == (excluded, steps)
    assert defense_of(config) == value.partition(":")[0]


def test_settings_of_a_baseline_hold_where_it_is_named_and_nowhere_else():
    cells = plan("defenses=none,realignment", "realignment.steps=7")
    assert [cell.config.realignment.steps for cell in cells] == [0, 7]
    assert [cell.config.realignment.steps for cell in plan("seeds=0,1", "realignment.steps=7")] == [7, 7]
    message = "realignment.steps=7 holds for the defenses that name realignment: write defenses=realignment"
    with pytest.raises(ConfigError, match=message):
        plan("defenses=none,shadow", "realignment.steps=7")
    with pytest.raises(ConfigError, match=r"clients.exclude_malicious=True holds for the defenses that name oracle"):
        plan("defenses=none", "clients.exclude_malicious=true")


def test_where_no_attacker_takes_part_the_attack_is_no_axis():
    labels = [cell.label for cell in plan("defenses=none,oracle", "attacks=alie,ipm", "malicious=0,3")]
    assert labels == [
        "none, 0 malicious",
        "none, attack alie, 3 malicious",
        "none, attack ipm, 3 malicious",
        "oracle, 0 malicious",
        "oracle, 3 malicious",
    ]
    assert [cell.label for cell in plan("attacks=alie,ipm", "seeds=0", "clients.malicious=0")] == ["seed 0"]
    assert [cell.label for cell in plan("attacks=alie,ipm", "clients.malicious=0")] == ["attack alie", "attack ipm"]


def test_the_protocol_is_what_the_axes_do_not_say():
    def protocols(*arguments):
        return {cell.protocol for cell in plan(*arguments)}

    (frozen,) = protocols("seeds=0")
    matrix = ("defenses=none,oracle,realignment,live,krum,live+realignment", "attacks=unaligned,alie", "malicious=0,3")
    assert protocols(*matrix, "worlds=0,1", "seeds=0,1") == {frozen}
    assert protocols("rules=krum,bulyan", "defense.level=none") == {frozen}
    changed = ("defense.canary.max_rise=0.3", "aggregation.f=2", "rounds=4", "realignment.refusal_share=0.4")
    others = [protocols("seeds=0", change) for change in changed]
    assert len(set().union(*others, {frozen})) == 5
    assert protocols("defenses=realignment", "realignment.steps=7").isdisjoint({frozen})


def test_attacks_and_rules_are_axes():
    (cell,) = plan("attacks=ipm", "rules=median", "malicious=2")
    assert cell.label == "rule median, attack ipm, 2 malicious"
    assert (cell.config.clients.attack, cell.config.aggregation.rule, cell.config.clients.malicious) == ("ipm", "median", 2)


@pytest.mark.parametrize(
    ("arguments", "f"),
    [
        (["rules=krum"], 3),
        (["rules=krum", "malicious=5"], 3),
        (["rules=bulyan"], 1),  # 4 f + 3 <= 10
        (["rules=krum", "clients.count=20", "clients.per_round=8"], 2),
        (["defenses=trimmed_mean"], 3),
        (["rules=fedavg"], None),
        (["rules=median", "aggregation.pre=nnm"], 3),
        (["rules=krum", "aggregation.f=1"], 1),
        (["rules=bulyan", "aggregation.f=0"], 0),
    ],
)
def test_rules_assume_30_percent_of_attackers_unless_f_is_set(arguments, f):
    assert [cell.config.aggregation.f for cell in plan(*arguments)] == [f]


def test_every_fault_of_every_cell_is_listed_before_anything_starts():
    with pytest.raises(ConfigError) as caught:
        plan("defenses=none,bogus", "malicious=3,11")
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 4 cells cannot run, nothing was started"
    assert lines[1].startswith("none, 11 malicious: clients.malicious=11 is more than clients.count=10")
    assert lines[2].startswith("bogus, 3 malicious: defense.level: ")
    assert lines[3].startswith("bogus, 11 malicious: ")


def test_a_fault_that_all_cells_share_is_listed_once():
    with pytest.raises(ConfigError, match=r"^in every cell: unknown key rouns; did you mean rounds\?$"):
        plan("seeds=0,1", "rouns=2")
    with pytest.raises(ConfigError, match=r"^1 of 2 cells cannot run, nothing was started\nseeed=1: unknown key seeed"):
        for_each_cell({key: [key] for key in ("seeed=1", "seed=1")}, lambda overrides: load_config(None, overrides))


def test_two_ways_to_name_a_rule_are_one_too_many():
    with pytest.raises(ConfigError, match="defenses=none:krum names the rule krum, and rules= is an axis too"):
        plan("defenses=none:krum", "rules=median")


def test_worlds_are_an_axis_of_the_embedded_model_only():
    assert [cell.config.world.seed for cell in plan("worlds=0,1")] == [0, 1]
    with pytest.raises(ConfigError, match="worlds= varies the embedded world"):
        plan("worlds=0,1", "model.path=m", "data.path=d", "clients.malicious=0")


def test_a_name_in_the_configuration_stays_apart_for_runs_side_by_side():
    assert [cell.config.name for cell in plan("seeds=0,1", "name=mine")] == ["mine.seed-0", "mine.seed-1"]


def test_directories_are_safe_and_tell_labels_apart():
    assert directory_name("live+canary, rule krum, world 1") == "live+canary_rule-krum_world-1"
    assert directory_name("shadow:krum, attack min-max") == "shadow-krum_attack-min-max"
    odd = [directory_name(label) for label in ("attack a/b", "attack a\\b", "../x", "x" * 300, "x" * 301, "attack ä")]
    assert len(set(odd)) == len(odd)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 and name.isascii() for name in odd)


def test_keys_that_change_no_result_are_no_difference():
    assert differences(load_config(None), load_config(None, WITHOUT_EFFECT)) == []
    assert differences(load_config(None), load_config(None, ["checkpoint.path=s3://b"])) == [
        "checkpoint.path=None, asked is s3://b"
    ]


@pytest.mark.parametrize("override", ["seed=5", "checkpoint.path=s3://b", *WITHOUT_EFFECT])
def test_the_hash_leaves_out_the_seed_and_keys_that_change_no_result(override):
    assert config_hash(load_config(None, [override])) == config_hash(load_config(None))


@pytest.mark.parametrize("override", ["rounds=9", "world.seed=1", "defense.level=none", "training.learning_rate=0.02"])
def test_the_hash_depends_on_every_other_key(override):
    assert config_hash(load_config(None, [override])) != config_hash(load_config(None))
