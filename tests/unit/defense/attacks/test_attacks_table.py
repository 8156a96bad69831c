"""defense/attacks/__init__.py and config.py: what the table says of each attack, and runs in which an attack cannot be made."""

import pytest
from pytest import approx, mark

from defense.attacks import ATTACKS
from defense.attacks.collusion import PLOTS
from defense.attacks.config import AlieConfig, AttackConfig, SleeperConfig, largest_z
from defense.attacks.own_updates import CHANGES


@mark.parametrize("name", ATTACKS)
def test_every_attack_changes_something(name):
    attack = ATTACKS[name]
    assert attack.data != "honest" or attack.behaves
    assert attack.colludes == (name in PLOTS or name == "joint")
    assert attack.update or name not in {**CHANGES, **PLOTS}


def test_attacks_on_updates_alone_need_no_unsafe_data():
    free = {name for name, attack in ATTACKS.items() if not attack.needs_unsafe}
    assert free == {
        *("label_noise", "substituted", "unusable", "sign_flip", "gaussian", "gauge", "free_rider"),
        *("alie", "ipm", "min_max", "min_sum", "mimic", "exclusion"),
    }


@mark.parametrize(
    ("name", "malicious", "settings", "message"),
    [
        ("sybil", 1, {}, r"clients\.attack=sybil is made by at least 2 attackers together; set clients\.malicious=2 or more"),
        ("alie", 2, {}, r"clients\.attack=alie with clients\.malicious=2 of 10 clients a round is no attack.*attack\.alie\.z"),
        ("sleeper", 1, {"sleeper": {"from_round": 6}}, r"attack\.sleeper\.from_round=6 is never reached in rounds=6; .*most 5"),
    ],
)
def test_an_attack_that_cannot_be_made_is_an_error(name, malicious, settings, message):
    with pytest.raises(ValueError, match=message):
        AttackConfig.model_validate(settings).check(name, malicious, num_clients=10, num_rounds=6)
    AttackConfig.model_validate(settings).check(name, 0, num_clients=10, num_rounds=6)
    AttackConfig(alie=AlieConfig(z=0.5)).check(name, 3, num_clients=10, num_rounds=6)


def test_sleepers_wait_for_the_second_half_of_the_rounds():
    assert [AttackConfig().first_round("sleeper", rounds) for rounds in (1, 5, 10)] == [0, 2, 5]
    assert AttackConfig(sleeper=SleeperConfig(from_round=3)).first_round("sleeper", 10) == 3
    assert AttackConfig(sleeper=SleeperConfig(from_round=3)).first_round("unaligned", 10) == 0


@mark.parametrize(
    ("num_clients", "num_malicious", "z"),
    [
        # s = floor(n/2 + 1) - m: 14, 3, 2; the share of honest clients without supporters 24/38, 4/7, 4/6, by a table of Phi.
        (50, 12, 0.3360),
        (10, 3, 0.1800),
        (10, 4, 0.4307),
        *((10, 1, 0), (10, 2, 0), (50, 2, 0)),  # too few
        *((10, 9, 3.0902), (3, 3, 3.0902)),  # a majority by themselves: bounded, Phi^-1(0.999)
    ],
)
def test_the_largest_z_is_the_papers(num_clients, num_malicious, z):
    assert largest_z(num_clients, num_malicious) == approx(z, abs=1e-4)
