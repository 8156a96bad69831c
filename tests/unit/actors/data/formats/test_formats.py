"""Every format, each in a file that its own library has written: the same rows come out, whatever they hold."""

import csv
import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from actors.data.files import read_table
from actors.data.folders import data_files, is_folder_of_files, unread_files
from actors.data.records import conversations
from actors.errors import DataError

ODD = 'null, "2024-01-01"\r\n\u2028 é 🙂\x00\t'
ROWS = [
    {"instruction": "Say a.", "input": "", "output": "a", "extra": 1},
    {"instruction": ODD, "input": ODD, "output": ODD, "extra": 2},
    {"instruction": "1", "input": "", "output": "null", "extra": 3},
]
CONVERSATIONS = [
    [{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "a"}],
    [{"role": "user", "content": f"{ODD}\n{ODD}"}, {"role": "assistant", "content": ODD}],
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "null"}],
]


def read(path: Path | str) -> list:
    return list(conversations(read_table(Path(path)), Path(path)))


def write_text(path: Path, text: str) -> Path:
    packed = path.suffix == ".gz"
    with gzip.open(path, "wt", encoding="utf-8", newline="") if packed else path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def write_csv(path: Path) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_stream(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return path


def lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)


def saved(path: Path, **options) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(path, **options)
    return path


def feather(path: Path, **options) -> Path:
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), path, **options)
    return path


WRITERS = {
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path) or path,
    "a.jsonl": lambda path: write_text(path, "\ufeff" + lines(ROWS)),
    "a.jsonl.gz": lambda path: write_text(path, lines(ROWS)),
    "lines.json": lambda path: write_text(path, lines(ROWS)),
    "a.json": lambda path: write_text(path, "\ufeff" + json.dumps(ROWS, ensure_ascii=False)),
    "indented.json": lambda path: write_text(path, json.dumps(ROWS, indent=4)),
    "a.json.gz": lambda path: write_text(path, json.dumps(ROWS)),
    "a.csv": write_csv,
    "a.csv.gz": write_csv,
    "a.feather": feather,
    "zstd.feather": lambda path: feather(path, compression="zstd", chunksize=2),
    "a.arrow": write_stream,
    "saved": saved,
    "saved in parts": lambda path: saved(path, num_shards=3),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_come_out_of_every_format(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    assert read(path) == CONVERSATIONS
    assert "extra" not in read_table(path).column_names
    assert [value.as_py() for value in read_table(path, ["extra"])["extra"]] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_packed_file_under_a_plain_name_is_read(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    path.write_bytes(gzip.compress(path.read_bytes()[:9]) + gzip.compress(path.read_bytes()[9:]))  # in two members
    assert read(path) == CONVERSATIONS


def test_a_folder_that_save_to_disk_wrote_is_one_data_set_and_those_of_several_splits_are_named(tmp_path):
    one = saved(tmp_path / "clients" / "one")
    assert not is_folder_of_files(one)
    assert list(data_files(one)) == [one] and list(data_files(one.parent)) == [one] and unread_files(one.parent) == []
    half = datasets.Dataset.from_list(ROWS[:1])
    datasets.DatasetDict({"train": half, "test": half}).save_to_disk(tmp_path / "both")
    with pytest.raises(
        DataError, match=r"both holds the splits \['test', 'train'\] of a data set; name one of them: .*both/test"
    ):
        data_files(tmp_path / "both")
    assert read(tmp_path / "both" / "train") == CONVERSATIONS[:1]


def test_a_saved_folder_reads_no_file_outside_itself(tmp_path):
    folder = saved(tmp_path / "d")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../a.arrow"}]}))
    write_stream(tmp_path / "a.arrow")
    with pytest.raises(DataError, match=r"state\.json names the file '\.\./a\.arrow', which is not in the folder"):
        read_table(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("goal,target\na,b,c\n", "row 0: it has 3 values where the header names 2 columns"),
        ("goal,target\na,b\nc\n", "row 1: it has 1 values where the header names 2 columns"),
        ('goal,target\na,"b\nc,"d"\n', "row 0: it is not CSV: ',' expected after '\"'"),
        ('goal,target\na,b\nc,"d\n', "row 1: it is not CSV: unexpected end of data"),
        ("goal,goal\na,b\n", "it has two columns goal"),
        ("goal,target\n", "has no rows"),
        ("\n\n", "has no rows"),
        (
            "goal,target\na,\n",
            "row 0: response should be non-empty text, got ''; correct the row or remove it (instruction is its column goal",
        ),
        ("goal;target\na;b\n", r"its header is separated by ';'; save it with commas"),
    ],
)
def test_a_broken_csv_file_is_named_with_what_is_wrong(tmp_path, text, what):
    with pytest.raises(DataError) as caught:
        read(write_text(tmp_path / "d.csv", text))
    assert what in str(caught.value) and "d.csv" in str(caught.value)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_with_other_separators_is_refused_with_the_fix(tmp_path, mark):
    path = tmp_path / "d.csv"
    pd.DataFrame(ROWS).to_csv(path, index=False, sep=mark)
    with pytest.raises(DataError, match=r"d\.csv cannot be read: its header is separated by .*; save it with commas"):
        read(path)
    pd.DataFrame(ROWS).to_csv(path, index=False)
    assert len(read(path)) == len(ROWS)


def test_csv_that_is_not_utf_8_is_named_by_line(tmp_path):
    (tmp_path / "d.csv").write_bytes("goal,target\na,b\ncafé,b\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3 is not UTF-8"):
        read(tmp_path / "d.csv")


def test_a_long_value_of_csv_is_read(tmp_path):
    assert len(read(write_text(tmp_path / "d.csv", f"goal,target\na,{'x' * 3_000_000}\n"))[0][1]["content"]) == 3_000_000


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.json.gz", "d.csv.gz"])
def test_few_packed_bytes_that_stand_for_very_many_are_refused(tmp_path, name):
    path = write_text(tmp_path / name, "goal,target\n" + " " * 30_000_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="holds more than 10 MiB of rows"):
        read_table(path, most_bytes=10 * 2**20)


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_a_large_arrow_file_is_refused(tmp_path, compression):
    table = pa.table({"instruction": ["x" * 1_000_000] * 30, "output": ["y"] * 30})
    pyarrow.feather.write_feather(table, tmp_path / "d.feather", compression=compression)
    with pytest.raises(DataError, match="holds more than 10 MiB of rows"):
        read_table(tmp_path / "d.feather", most_bytes=10 * 2**20)


@pytest.mark.parametrize("name", ["a.arrow", "a.feather"])
def test_arrow_files_that_are_cut_or_no_arrow_are_named(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"FEA1 and more", b"x" * 1000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} cannot be read"):
            read_table(path)
