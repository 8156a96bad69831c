"""Which clients join from a watched directory; none with half of its files."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.data.own_data import WatchedDirectory
from tests.unit.cluster.data.builders import tokens_in, write_rows


def watched(folder: Path) -> WatchedDirectory:
    return WatchedDirectory(folder, tokens_in(folder.parent / "tokens"))


def look(watch: WatchedDirectory, known: dict) -> tuple[dict[str, list[str]], list[str]]:
    arrived, unreadable = watch.arrivals(known)
    known.update(arrived)
    return {name: [Path(path).name for path in files] for name, files in arrived.items()}, sorted(unreadable)


def test_files_from_the_start_count_at_once_and_later_files_at_the_second_look(tmp_path):
    write_rows(tmp_path / "b.jsonl", 3)
    watch, known = watched(tmp_path), {}
    assert look(watch, known) == ({"client-000": ["b.jsonl"]}, [])
    write_rows(tmp_path / "c.jsonl", 3)
    write_rows(tmp_path / "a" / "part.jsonl", 3)
    assert look(watch, known) == ({}, [])
    assert look(watch, known) == ({"client-001": ["part.jsonl"], "client-002": ["c.jsonl"]}, [])
    assert look(watch, known) == ({}, [])


def test_a_file_that_grows_from_look_to_look_is_not_taken_before_it_has_its_last_row(tmp_path):
    watch, known = watched(tmp_path), {}
    for rows in (1, 2, 3):
        write_rows(tmp_path / "a.jsonl", rows)
        assert look(watch, known) == ({}, [])
    assert look(watch, known)[0] == {"client-000": ["a.jsonl"]}


def test_a_file_of_the_same_size_that_was_written_again_is_not_taken(tmp_path):
    watch, known, path = watched(tmp_path), {}, write_rows(tmp_path / "a.jsonl", 3)
    assert look(watch, known) == ({}, [])
    os.utime(path, ns=(0, 0))
    assert look(watch, known) == ({}, [])
    assert look(watch, known)[0] == {"client-000": ["a.jsonl"]}


@pytest.mark.parametrize("underway", ["two.jsonl", ".two.jsonl.x7Dk2"])
def test_a_folder_is_taken_with_all_its_files(tmp_path, underway):
    watch, known, folder = watched(tmp_path), {}, tmp_path / "a"
    write_rows(folder / "one.jsonl", 3)
    assert look(watch, known) == ({}, [])
    for content in ("{", '{"in'):
        (folder / underway).write_text(content)
        assert look(watch, known) == ({}, [])
    (folder / underway).unlink()
    write_rows(folder / "two.jsonl", 3)
    assert look(watch, known) == ({}, [])
    assert look(watch, known)[0] == {"client-000": ["one.jsonl", "two.jsonl"]}


def test_unreadable_files_are_named_once_they_have_settled_and_join_when_they_are_mended(tmp_path):
    watch, known = watched(tmp_path), {}
    (tmp_path / "half.parquet").write_bytes(b"PAR1 not whole")
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "rows.jsonl", 2, response=["yes", ""])
    assert look(watch, known) == ({}, [])
    arrived, unreadable = look(watch, known)
    assert arrived == {}
    assert ["data directory" in unreadable[0], "half.parquet" in unreadable[1], "row 1: response" in unreadable[2]] == [True] * 3
    write_rows(tmp_path / "rows.jsonl", 2)
    assert look(watch, known)[0] == {}
    assert look(watch, known)[0] == {"client-000": ["rows.jsonl"]}


def test_whatever_a_file_holds_its_client_is_refused_with_a_reason_and_the_others_join(tmp_path):
    hostile = {
        "a.jsonl": b'{"instruction": "a", "messages": ' + b"[" * 100_000,
        "b.jsonl": json.dumps({"messages": "[" * 100_000}).encode(),
        "c.jsonl": "é".encode("latin-1"),
        "d.jsonl": b'{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"name": "x"}]}]}',
        "e.parquet": b"PAR1" + b"\xff" * 99 + b"PAR1",
        "f.jsonl": b'{"instruction": "\\ud800", "response": "a"}',
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
    write_rows(tmp_path / "g.parquet", 2, when=pa.array([2**62] * 2, pa.timestamp("ns", tz="Mars/Base")))
    write_rows(tmp_path / "h.parquet", 2, response=pa.array([1, 2], pa.timestamp("us")))
    times = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"instruction": times, "response": times}), tmp_path / "i.parquet")
    (tmp_path / "j.jsonl").symlink_to(tmp_path / "j.jsonl")
    watch, known = watched(tmp_path), {}
    arrived, refused = look(watch, known)
    assert arrived == {"client-000": ["g.parquet"]}
    assert len(refused) == 9
    assert all(any(f"/{letter}." in why for why in refused) for letter in "abcdefhij")


def test_a_directory_that_is_away_for_a_while_brings_no_client_twice(tmp_path):
    folder, away = tmp_path / "d", tmp_path / "away"
    write_rows(folder / "a.jsonl", 2)
    watch, known = watched(folder), {}
    assert look(watch, known)[0] == {"client-000": ["a.jsonl"]}
    folder.rename(away)
    assert look(watch, known) == ({}, [])
    away.rename(folder)
    assert [look(watch, known) for _ in range(2)] == [({}, [])] * 2
