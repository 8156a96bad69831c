"""Who may see which family: every family has at most one role, drawn from the world seed."""

import itertools

from pytest import mark

from actors.world.benign import NEW, TRAINED
from actors.world.restricted import RESTRICTED
from actors.world.roles import ROLES, assign_roles

TRAINED_NAMES = {family.name for family in TRAINED}
NEW_NAMES = {family.name for family in NEW}
RESTRICTED_NAMES = {family.name for family in RESTRICTED}
SEEDS = range(10)


def test_the_table_knows_every_role():
    assert set(ROLES) == {"federation", "collection", "calibration", "probe_test", "live_reference", "canary"}
    assert set(assign_roles(0)) == set(ROLES)


def test_there_are_families_enough_for_the_table():
    wanted = [sum(counts) for counts in zip(*ROLES.values(), strict=True)]
    assert wanted[0] <= len(TRAINED) and wanted[1] <= len(NEW) and wanted[2] <= len(RESTRICTED)


@mark.parametrize("seed", SEEDS)
def test_no_family_has_two_roles(seed):
    roles = assign_roles(seed)
    dealt = list(itertools.chain(*(families.benign + families.restricted for families in roles.values())))
    assert len(dealt) == len(set(dealt)) == sum(map(sum, ROLES.values()))


@mark.parametrize("seed", SEEDS)
def test_every_role_has_its_number_of_families_from_the_right_table(seed):
    for role, families in assign_roles(seed).items():
        assert (len(families.trained), len(families.new), len(families.restricted)) == ROLES[role]
        assert set(families.trained) <= TRAINED_NAMES
        assert set(families.new) <= NEW_NAMES
        assert set(families.restricted) <= RESTRICTED_NAMES


def test_benign_families_are_the_trained_and_the_new():
    families = assign_roles(0)["federation"]
    assert families.benign == families.trained + families.new
    assert len(families.benign) == 9


def test_every_role_that_judges_updates_has_restricted_families():
    assert all(counts[2] >= 2 for counts in ROLES.values())


def test_equal_seeds_deal_alike_and_others_otherwise():
    assert assign_roles(3) == assign_roles(3)
    assert len({str(assign_roles(seed)) for seed in SEEDS}) == len(SEEDS)


def test_every_restricted_family_can_come_to_the_federation():
    seen = {name for seed in range(40) for name in assign_roles(seed)["federation"].restricted}
    assert seen == RESTRICTED_NAMES
