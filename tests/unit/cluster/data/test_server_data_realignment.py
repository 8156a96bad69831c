"""What the server realigns with: from the embedded world or from own files, or an error that names what to set."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from cluster.config.loading import load_config
from cluster.data.server_data import prepare_realignment
from cluster.errors import ConfigError

OWN = ("model.path=m", "data.path=d", "clients.malicious=0", "defense.level=none")


def config(*overrides: str):
    return load_config(None, ["realignment.steps=3", *overrides])


@pytest.fixture
def own(tmp_path):
    """Overrides for an operator with three refusals in one file and five benign rows in a folder of two."""
    (tmp_path / "benign").mkdir()
    contents = {"refusals.jsonl": ["r0", "r1", "r2"], "benign/a.jsonl": ["b0", "b1", "b2"], "benign/b.jsonl": ["b3", "b4"]}
    for name, texts in contents.items():
        lines = [json.dumps({"instruction": text, "response": "x"}) for text in texts]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return (*OWN, f"evaluation.canary_path={tmp_path / 'refusals.jsonl'}", f"collect.benign_path={tmp_path / 'benign'}")


def counts(files) -> Counter:
    return Counter(text for file in files for text in pq.read_table(file)["instruction"].to_pylist())


def test_without_realignment_nothing_is_written(tmp_path):
    assert prepare_realignment(load_config(None), tmp_path / "out") == ()
    assert not (tmp_path / "out").exists()


def test_the_embedded_world_brings_its_own(tmp_path):
    (file,) = prepare_realignment(config("realignment.samples=12"), tmp_path)
    assert pq.read_table(file).num_rows == 12


def test_own_rows_are_mixed_as_asked_and_repeated_evenly_where_they_are_too_few(own, tmp_path):
    files = prepare_realignment(config(*own, "realignment.samples=10", "realignment.refusal_share=0.7"), tmp_path / "out")
    found = counts(files)
    assert sum(count for text, count in found.items() if text.startswith("r")) == 7
    assert sorted(found[text] for text in ("r0", "r1", "r2")) == [2, 2, 3]
    assert sorted(count for text, count in found.items() if text.startswith("b")) == [1, 1, 1]


def test_which_rows_are_taken_is_a_seeded_draw(own, tmp_path):
    def drawn(name, *overrides):
        return counts(prepare_realignment(config(*own, "realignment.samples=4", *overrides), tmp_path / name))

    assert drawn("a") == drawn("b")
    assert len({frozenset(drawn(str(seed), f"seed={seed}").items()) for seed in range(8)}) > 1


def test_a_kind_of_row_that_is_not_asked_for_needs_no_file(own, tmp_path):
    (file,) = prepare_realignment(config(*own[:-1], "realignment.refusal_share=1"), tmp_path / "out")
    assert set(counts([file])) == {"r0", "r1", "r2"}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (4, r"realignment.steps=3 needs restricted prompts with refusals that no client has: name .* evaluation.canary_path"),
        (5, r"needs harmless instruction data that no client has: name .* in collect.benign_path, or set realignment.steps=0"),
    ],
)
def test_missing_data_is_named(own, tmp_path, kept, message):
    with pytest.raises(ConfigError, match=message):
        prepare_realignment(config(*own[:kept]), tmp_path / "out")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl does not exist"):
        prepare_realignment(config(*OWN, f"evaluation.canary_path={tmp_path / 'none.jsonl'}"), tmp_path / "out")
