"""defense/attacks: the table covers every name, and says of each what it changes."""

from typing import get_args

from pytest import mark

from defense.attacks import ATTACKS
from defense.attacks.config import AttackName
from defense.attacks.updates import CHANGES, PLOTS


def test_every_name_is_in_the_table():
    assert set(ATTACKS) == set(get_args(AttackName))


@mark.parametrize("name", get_args(AttackName))
def test_every_attack_changes_something(name):
    attack = ATTACKS[name]
    assert attack.data != "honest" or attack.behaves


def test_those_who_collude_have_a_plot_and_the_others_none():
    assert {name for name, attack in ATTACKS.items() if attack.colludes} == set(PLOTS)
    assert not set(CHANGES) & set(PLOTS)


def test_attacks_on_updates_alone_need_no_unsafe_data():
    free = {name for name, attack in ATTACKS.items() if not attack.needs_unsafe}
    assert free == {
        *("label_noise", "sign_flip", "gaussian", "gauge", "free_rider"),
        *("alie", "ipm", "min_max", "min_sum", "mimic"),
    }
