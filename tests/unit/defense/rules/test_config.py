"""defense/rules/config.py: f is an error at the start when a rule cannot bear it, and is lowered in rounds with fewer clients."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from defense.rules import RULES
from defense.rules.config import AggregationConfig
from tests.unit.defense.rules.builders import aggregate, draw

ASSUMING = [("rule", name) for name, rule in RULES.items() if rule.assumes_attackers] + [("pre", "nnm")]


@pytest.mark.parametrize(
    ("key", "name", "f", "needed"),
    [
        ("rule", "krum", 3, 9),
        ("rule", "multi_krum", 3, 9),
        ("rule", "bulyan", 2, 11),
        ("rule", "trimmed_mean", 3, 7),
        ("rule", "dnc", 3, 7),
        ("pre", "nnm", 2, 5),
    ],
)
def test_a_rule_needs_enough_clients_for_f(key, name, f, needed):
    config = AggregationConfig(**{key: name}, f=f)
    config.check(needed)
    expected = (
        rf"aggregation\.{key}={name} with aggregation\.f={f} needs .* = {needed} clients and a round has {needed - 1}; "
        rf"set aggregation\.f to at most {f - 1}"
    )
    with pytest.raises(ValueError, match=expected):
        config.check(needed - 1)
    assert (config.assumed_attackers(needed), config.assumed_attackers(needed - 1)) == (f, f - 1)


def test_a_round_too_small_for_any_f_is_an_error():
    with pytest.raises(ValueError, match=r"aggregation\.rule=krum needs at least 3 clients and a round has 2"):
        AggregationConfig(rule="krum", f=0).check(2)


@pytest.mark.parametrize(("key", "name"), ASSUMING)
def test_a_rule_that_assumes_attackers_wants_their_number(key, name):
    with pytest.raises(ValidationError, match=rf"{key}={name} needs f, .*; set aggregation\.f"):
        AggregationConfig(**{key: name})


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.assumes_attackers])
def test_other_rules_need_no_f_and_assume_none(name):
    config = AggregationConfig(rule=name)
    config.check(1)
    assert config.assumed_attackers(10) is None
    assert aggregate(name, draw(0, 4).updates).num_attackers is None


@pytest.mark.parametrize(
    ("name", "by_clients"),
    [
        ("krum", {1: 0, 2: 0, 4: 0, 5: 1, 8: 2, 9: 3, 30: 3}),
        ("bulyan", {2: 0, 6: 0, 7: 1, 14: 2, 15: 3, 30: 3}),
        ("trimmed_mean", {1: 0, 2: 0, 3: 1, 6: 2, 7: 3, 30: 3}),
    ],
)
def test_f_is_lowered_to_what_the_admitted_clients_allow(name, by_clients):
    config = AggregationConfig(rule=name, f=3)
    assert {count: config.assumed_attackers(count) for count in by_clients} == by_clients
    for count, assumed in by_clients.items():
        assert aggregate(name, draw(1, count).updates, f=3).num_attackers == assumed


def test_the_stricter_of_rule_and_mixing_decides():
    assert AggregationConfig(rule="bulyan", pre="nnm", f=3).assumed_attackers(10) == 1
    assert AggregationConfig(rule="median", pre="nnm", f=3).assumed_attackers(6) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "average"}, "rule\n  Input should be 'fedavg', 'median', .* or 'lasa'"),
        ({"pre": "bucketing"}, "pre\n  Input should be 'none' or 'nnm'"),
        ({"optimizer": "adam"}, "optimizer\n  Input should be 'none', 'fedavgm', .* or 'fedadam'"),
        ({"f": -1}, "f"),
        ({"lasa": {"sparsity": 1.0}}, "lasa.sparsity"),
        ({"centered_clipping": {"radius": 0}}, "centered_clipping.radius"),
        ({"dnc": {"filtering": 3}}, "dnc.filtering"),
        ({"flame": {"noise": -1}}, "flame.noise"),
        ({"fedavgm": {"momentum": 1.0}}, "fedavgm.momentum"),
        ({"krum": {}}, "krum"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        AggregationConfig(**settings)


def test_the_check_needs_no_torch():
    code = "import sys; from defense.rules.config import AggregationConfig; AggregationConfig(rule='krum', f=1).check(5); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"
