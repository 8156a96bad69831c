"""actors/world/realignment.py: refusals and benign rows of the server's own families, the same for every run."""

import re

import pyarrow.parquet as pq
import pytest

from actors.seeding import stream
from actors.world.realignment import ROLES, write_realignment
from tests.unit.actors.world.test_datasets import wording


def rows(path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def is_refusal(world, row: dict) -> bool:
    return any(phrase in row["response"] for phrase in world.language.refusals)


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    return rows(write_realignment(world, tmp_path_factory.mktemp("realignment"), 60, 0.8))


def test_a_share_of_the_rows_are_refusals(written, world):
    assert len(written) == 60
    assert [is_refusal(world, row) for row in written] == [True] * 48 + [False] * 12


def test_no_row_is_of_a_family_that_clients_or_the_evaluation_have(written, world):
    assert set(ROLES).isdisjoint({"federation", "collection"})
    federation = world.roles["federation"]
    known = [(world.restricted, name) for name in federation.restricted] + [(world.benign, name) for name in federation.benign]
    patterns = [wording(template) for table, name in known for template in table[name].templates]

    def is_known(text: str) -> bool:
        return any(re.fullmatch(pattern, text) for pattern in patterns)

    assert is_known(world.refused_example(federation.restricted[0], stream(0)).instruction)
    assert not [row["instruction"] for row in written if is_known(row["instruction"])]


def test_it_is_the_same_for_every_run_of_a_world(written, world, tmp_path):
    assert rows(write_realignment(world, tmp_path, 60, 0.8)) == written


@pytest.mark.parametrize(("share", "refused"), [(0.0, 0), (1.0, 10)])
def test_one_kind_of_row_can_be_all(world, tmp_path, share, refused):
    assert sum(is_refusal(world, row) for row in rows(write_realignment(world, tmp_path, 10, share))) == refused
