"""aggregation.f: refused at the start when a rule cannot bear it, lowered in rounds with fewer clients."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from defense.config import CLIENTS_NEEDED, AggregationConfig, most_attackers
from tests.unit.defense.rules.builders import aggregate, draw


@pytest.mark.parametrize(
    ("name", "f", "needed"),
    [("krum", 3, 9), ("multi_krum", 3, 9), ("bulyan", 2, 11), ("trimmed_mean", 3, 7), ("dnc", 3, 7)],
)
def test_a_rule_needs_enough_clients_for_f(name, f, needed):
    config = AggregationConfig(rule=name, f=f)
    config.check(needed)
    with pytest.raises(
        ValueError, match=rf"aggregation\.rule={name} with aggregation\.f={f} needs .* = {needed} clients"
    ) as caught:
        config.check(needed - 1)
    assert f"a round has {needed - 1}" in str(caught.value)
    assert f"set aggregation.f to at most {f - 1}" in str(caught.value)
    assert most_attackers(name, needed) == f
    assert most_attackers(name, needed - 1) == f - 1


def test_mixing_needs_a_majority_too():
    config = AggregationConfig(rule="median", pre="nnm", f=2)
    config.check(5)
    with pytest.raises(ValueError, match=r"aggregation\.pre=nnm with aggregation\.f=2 needs 2f \+ 1 = 5 clients"):
        config.check(4)


def test_too_few_clients_for_any_f_are_told_so():
    with pytest.raises(ValueError, match=r"aggregation\.rule=krum needs at least 3 clients and a round has 2"):
        AggregationConfig(rule="krum", f=0).check(2)


@pytest.mark.parametrize("name", CLIENTS_NEEDED)
def test_a_rule_that_assumes_attackers_wants_their_number(name):
    key = "pre" if name == "nnm" else "rule"
    with pytest.raises(ValidationError, match=rf"{key}={name} needs f, .*; set aggregation\.f"):
        AggregationConfig(**{key: name})


@pytest.mark.parametrize(
    "name", ["fedavg", "median", "geometric_median", "centered_clipping", "foolsgold", "flame", "residual", "lasa"]
)
def test_other_rules_need_no_f_and_assume_none(name):
    config = AggregationConfig(rule=name)
    config.check(1)
    assert config.assumed_attackers(10) is None
    assert aggregate(config, draw(0, 4).updates).num_attackers is None


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
        assert aggregate(config, draw(1, count).updates).num_attackers == assumed


def test_the_stricter_of_rule_and_mixing_decides():
    assert AggregationConfig(rule="bulyan", pre="nnm", f=3).assumed_attackers(10) == 1
    assert AggregationConfig(rule="median", pre="nnm", f=3).assumed_attackers(6) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "average"},
        {"f": -1},
        {"pre": "bucketing"},
        {"lasa": {"sparsity": 1.0}},
        {"centered_clipping": {"radius": 0}},
        {"dnc": {"filtering": 3}},
        {"flame": {"noise": -1}},
        {"krum": {}},
    ],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        AggregationConfig(**settings)


def test_the_check_needs_no_torch():
    code = "import sys; from defense.config import AggregationConfig; AggregationConfig(rule='krum', f=1).check(5); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"
