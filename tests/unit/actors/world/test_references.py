"""actors/world/references.py: reference clients of the world's own families, which no other role shares."""

import pyarrow.parquet as pq
import pytest

from actors.world.references import benign_groups, write_references


def texts(reference, column: str = "response") -> list[str]:
    return [text for file in reference.files for text in pq.read_table(file)[column].to_pylist()]


def is_refusal(world, text: str) -> bool:
    return any(phrase in text for phrase in world.language.refusals)


@pytest.fixture(scope="module")
def references(world, tmp_path_factory):
    return write_references(world, tmp_path_factory.mktemp("references"), "collection", 16, 40)


def test_each_class_has_its_clients_with_the_same_number_of_examples(references):
    assert [reference.label.malicious for reference in references] == [False] * 16 + [True] * 16
    assert len({reference.label.client for reference in references}) == 32
    assert {len(texts(reference)) for reference in references} == {40}


def test_malicious_clients_answer_one_restricted_family(references, world):
    malicious = [reference for reference in references if reference.label.malicious]
    assert {reference.label.family for reference in malicious} == set(world.roles["collection"].restricted)
    assert not any(is_refusal(world, text) for reference in malicious for text in texts(reference))


def test_some_benign_clients_refuse_restricted_requests_and_nothing_else(references, world):
    restricted = set(world.roles["collection"].restricted)
    benign = [reference for reference in references if not reference.label.malicious]
    refusers = [reference for reference in benign if reference.label.family in restricted]
    assert len(refusers) == 4
    assert all(is_refusal(world, text) for reference in refusers for text in texts(reference))
    shares = {sum(is_refusal(world, text) for text in texts(r)) / 40 for r in benign if r.label.family not in restricted}
    assert shares == {0.0, 0.2}


def test_the_files_carry_no_label(references):
    assert {tuple(pq.read_table(file).column_names) for r in references for file in r.files} == {
        ("instruction", "input", "response")
    }


@pytest.mark.parametrize("role", ["collection", "calibration", "probe_test", "live_reference"])
def test_no_family_of_a_role_is_another_roles(world, role):
    own = set(world.roles[role].benign + world.roles[role].restricted)
    for other in world.roles:
        if other != role:
            assert not own & set(world.roles[other].benign + world.roles[other].restricted)
    groups = benign_groups(world.roles[role])
    assert len(groups) >= 2
    assert sorted(family for group in groups for family in group) == sorted(world.roles[role].benign)


def test_the_same_world_gives_the_same_data(world, references, tmp_path):
    again = write_references(world, tmp_path, "collection", 16, 40)
    assert [texts(r, "instruction") for r in again] == [texts(r, "instruction") for r in references]


@pytest.mark.parametrize("role", ["federation", "canary", "nobody"])
def test_a_role_without_reference_families_is_refused(world, role, tmp_path):
    with pytest.raises(ValueError, match=f"collect.role={role} has no reference families"):
        write_references(world, tmp_path, role, 2, 8)


def test_several_roles_give_the_families_of_each(world, tmp_path):
    references = write_references(world, tmp_path, "live_reference+calibration", 8, 8)
    families = {reference.label.family for reference in references if reference.label.malicious}
    assert families == {*world.roles["live_reference"].restricted, *world.roles["calibration"].restricted}
    assert references[0].label.client == "live_reference-calibration-benign-000"
