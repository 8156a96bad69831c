"""Reference clients of the world's own families, which no other role shares."""

import pytest

from actors.world.references import benign_groups, write_references
from tests.unit.actors.world.test_datasets import read


def responses(reference) -> list[str]:
    (file,) = reference.files
    return [row["response"] for row in read(file)]


def num_refusals(world, reference) -> int:
    return sum(response in world.language.refusals for response in responses(reference))


@pytest.fixture(scope="module")
def references(world, tmp_path_factory):
    return write_references(world, tmp_path_factory.mktemp("references"), "collection", 16, 40)


def test_each_class_has_its_clients_with_the_same_number_of_examples_and_no_label(references):
    assert [reference.label.malicious for reference in references] == [False] * 16 + [True] * 16
    assert len({reference.label.client for reference in references}) == 32
    assert {len(responses(reference)) for reference in references} == {40}
    assert {tuple(row) for reference in references for row in read(*reference.files)} == {("instruction", "input", "response")}


def test_malicious_clients_answer_one_restricted_family(references, world):
    malicious = [reference for reference in references if reference.label.malicious]
    assert {reference.label.family for reference in malicious} == set(world.roles["collection"].restricted)
    assert not any(num_refusals(world, reference) for reference in malicious)


def test_some_benign_clients_refuse_restricted_requests_and_nothing_else(references, world):
    restricted = set(world.roles["collection"].restricted)
    benign = [reference for reference in references if not reference.label.malicious]
    refusers = [num_refusals(world, reference) for reference in benign if reference.label.family in restricted]
    assert refusers == [40] * 4
    assert {num_refusals(world, r) for r in benign if r.label.family not in restricted} == {0, 8}


@pytest.mark.parametrize("role", ["collection", "calibration", "probe_test", "live_reference"])
def test_a_roles_benign_families_are_dealt_to_two_groups_or_more(world, role):
    groups = benign_groups(world.roles[role])
    assert len(groups) >= 2
    assert sorted(family for group in groups for family in group) == sorted(world.roles[role].benign)


def test_the_same_world_gives_the_same_data(world, references, tmp_path):
    again = write_references(world, tmp_path, "collection", 16, 40)
    assert [read(*r.files) for r in again] == [read(*r.files) for r in references]


@pytest.mark.parametrize("role", ["federation", "canary", "nobody"])
def test_a_role_without_reference_families_is_refused(world, role, tmp_path):
    with pytest.raises(ValueError, match=f"collect.role={role} has no reference families"):
        write_references(world, tmp_path, role, 2, 8)


def test_several_roles_give_the_families_of_each(world, tmp_path):
    references = write_references(world, tmp_path, "live_reference+calibration", 8, 8)
    families = {reference.label.family for reference in references if reference.label.malicious}
    assert families == {*world.roles["live_reference"].restricted, *world.roles["calibration"].restricted}
    assert references[0].label.client == "live_reference-calibration-benign-000"
