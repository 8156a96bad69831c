"""Which family serves which purpose: every family has at most one role, drawn from the world seed."""

import itertools

from pytest import mark

from actors.world.benign import NEW, TRAINED
from actors.world.restricted import RESTRICTED
from actors.world.roles import ROLES, assign_roles

TABLES = [{family.name for family in families} for families in (TRAINED, NEW, RESTRICTED)]
SEEDS = range(10)


@mark.parametrize("seed", SEEDS)
def test_every_role_has_its_families_and_no_family_has_two_roles(seed):
    roles = assign_roles(seed)
    assert set(roles) == set(ROLES) == {"federation", "collection", "calibration", "probe_test", "live_reference", "canary"}
    for role, families in roles.items():
        hands = (families.trained, families.new, families.restricted)
        assert tuple(map(len, hands)) == ROLES[role]
        assert all(set(hand) <= table for hand, table in zip(hands, TABLES, strict=True))
        assert families.benign == families.trained + families.new
    dealt = list(itertools.chain(*(families.benign + families.restricted for families in roles.values())))
    assert len(dealt) == len(set(dealt)) == sum(map(sum, ROLES.values()))


def test_every_role_that_judges_updates_has_restricted_families():
    assert all(num_restricted >= 2 for _, _, num_restricted in ROLES.values())


def test_equal_seeds_deal_alike_and_others_otherwise():
    assert assign_roles(3) == assign_roles(3)
    assert len({str(assign_roles(seed)) for seed in SEEDS}) == len(SEEDS)
    assert {name for seed in range(40) for name in assign_roles(seed)["federation"].restricted} == TABLES[2]
