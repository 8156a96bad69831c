"""actors/data/references.py: an operator's files dealt to labelled reference clients of one family each."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.data.files import read_table
from actors.data.references import split_references
from actors.errors import DataError

KEY = "collect.clients"


def write_jsonl(path: Path, count: int, **extra: str) -> Path:
    rows = [{"instruction": f"{path.stem} {i}", "response": "yes", **extra} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(reference) -> list[str]:
    return [text for file in reference.files for text in pq.read_table(file)["instruction"].to_pylist()]


def test_every_row_goes_to_one_client_and_clients_have_one_family(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "recipes.jsonl", 10)
    write_jsonl(data / "travel.jsonl", 7)
    references = split_references(data, False, 4, tmp_path / "out", seed=0, key=KEY)
    assert [reference.label.family for reference in references] == ["recipes", "recipes", "travel", "travel"]
    assert all(re.fullmatch(rf"benign-{i:03d}-[0-9a-f]{{8}}", reference.label.client) for i, reference in enumerate(references))
    assert not any(reference.label.malicious for reference in references)
    assert {reference.label.source for reference in references} == {"data"}
    dealt = [text for reference in references for text in rows_of(reference)]
    assert sorted(dealt) == sorted([f"recipes {i}" for i in range(10)] + [f"travel {i}" for i in range(7)])
    assert [len(rows_of(reference)) for reference in references] == [5, 5, 4, 3]


def test_a_column_names_the_family(tmp_path):
    path = tmp_path / "mixed.jsonl"
    rows = [{"instruction": str(i), "response": "no", "family": "ab"[i % 2]} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    references = split_references(path, True, 2, tmp_path / "out", seed=0, key=KEY)
    assert [(reference.label.client[:13], reference.label.family) for reference in references] == [
        ("malicious-000", "a"),
        ("malicious-001", "b"),
    ]
    assert sorted(rows_of(references[0])) == ["0", "2", "4"]
    assert all(reference.label.malicious for reference in references)


def test_the_deal_depends_on_the_seed_alone(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", 20)
    first, again, other = (
        [rows_of(reference) for reference in split_references(path, False, 2, tmp_path / f"{name}", seed=seed, key=KEY)]
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first != other


def test_a_name_tells_what_a_client_is_made_of_and_not_where_that_lies(tmp_path):
    here, there = tmp_path / "a" / "data", tmp_path / "b" / "data"
    here.mkdir(parents=True)
    for name in ("recipes", "travel"):
        write_jsonl(here / f"{name}.jsonl", 6)
    shutil.copytree(here, there)
    first, moved = (split_references(data, False, 4, data.parent / "out", seed=0, key=KEY) for data in (here, there))
    assert [reference.label for reference in first] == [reference.label for reference in moved]
    assert [Path(*reference.files).read_bytes() for reference in first] == [Path(*r.files).read_bytes() for r in moved]
    (there / "travel.jsonl").rename(there / "trips.jsonl")
    write_jsonl(there / "recipes.jsonl", 7)
    other = split_references(there, False, 4, tmp_path / "other", seed=0, key=KEY)
    assert not {reference.label.client for reference in other} & {reference.label.client for reference in first}


def test_a_name_is_that_of_the_rows_whatever_the_kind_of_file(tmp_path):
    lines = write_jsonl(tmp_path / "x.jsonl", 4)
    pq.write_table(read_table(lines), tmp_path / "x.parquet")
    names = [
        [reference.label.client for reference in split_references(path, True, 2, tmp_path / path.suffix[1:], seed=0, key=KEY)]
        for path in (lines, tmp_path / "x.parquet")
    ]
    assert names[0] == names[1]


def test_where_there_are_more_families_than_clients_a_client_has_several(tmp_path):
    for name in "abcde":
        write_jsonl(tmp_path / f"{name}.jsonl", 3)
    made = split_references(tmp_path, False, 2, tmp_path / "out", seed=0, key=KEY)
    assert [reference.label.family for reference in made] == ["a+c+e", "b+d"]
    assert [pq.read_table(reference.files[0]).num_rows for reference in made] == [9, 6]


def test_too_few_rows_are_refused_by_name(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", 3)
    with pytest.raises(DataError, match=r"family a has 3 rows for 4 clients; lower collect.clients=4$"):
        split_references(tmp_path / "a.jsonl", False, 4, tmp_path / "out", seed=0, key=KEY)


def test_a_folder_without_data_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no data file"):
        split_references(tmp_path, False, 2, tmp_path / "out", seed=0, key=KEY)
