"""Whatever a file holds, reading it gives text as it stands, or one error that names the file."""

import gzip
import json
import random
import re
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.data.files import read_table
from actors.errors import DataError

GOOD = b'{"instruction": "a", "response": "b"}\n'
MILLION = "x" * 1_000_000


def refuse(path: Path, **options) -> str:
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        read_table(path, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "text",
    ["2024-01-01", "2024-01-01T00:00:00Z", "12", "1e5", "true", "null", "NaN", "a\u2028b\x85c", "é\u0301 東 🙂", "\x00\x1b[0m"],
)
def test_text_is_text_whatever_it_looks_like(tmp_path, text):
    lines = write(
        tmp_path / "d.jsonl", b"\xef\xbb\xbf" + json.dumps({"instruction": text}, ensure_ascii=False).encode() + b"\r\n\n"
    )
    pq.write_table(pa.table({"instruction": [text]}), tmp_path / "d.parquet")
    for path in (lines, tmp_path / "d.parquet"):
        assert read_table(path)["instruction"].to_pylist() == [text]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_every_arrow_type_of_text_is_read(tmp_path, kind):
    values = pa.array(["a", None, "é"], pa.string())
    pq.write_table(
        pa.table({"instruction": values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)}),
        tmp_path / "d.parquet",
    )
    assert read_table(tmp_path / "d.parquet")["instruction"].to_pylist() == ["a", None, "é"]


@pytest.mark.parametrize("value", [5, 5.5, False, ["a"], {"a": 1}])
@pytest.mark.parametrize("column", ["instruction", "input", "response", "answer_pattern"])
def test_anything_but_text_is_refused_by_row(tmp_path, column, value):
    rows = [{"instruction": "a", "response": "b"}, {"instruction": "a", "response": "b", column: value}]
    message = refuse(write(tmp_path / "d.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert f"row 1: {column} should be text, got {value!r}" in message


def test_a_date_is_not_text(tmp_path):
    pq.write_table(pa.table({"instruction": ["a"], "response": pa.array([1], pa.date32())}), tmp_path / "d.parquet")
    assert "row 0: response should be text, got datetime.date(1970, 1, 2)" in refuse(tmp_path / "d.parquet")
    messages = pa.array([[{"role": "user", "content": 5}]], pa.list_(pa.struct({"role": pa.string(), "content": pa.date32()})))
    pq.write_table(pa.table({"messages": messages}), tmp_path / "d.parquet")
    assert "datetime" in read_table(tmp_path / "d.parquet")["messages"].to_pylist()[0]  # a list: no text, so no content


def test_names_may_be_numbers(tmp_path):
    path = write(tmp_path / "d.jsonl", b'{"prompt": "a", "family": 3, "topic": true}\n{"prompt": "a", "family": "3"}\n')
    names = read_table(path, ["topic"]).select(["family", "topic"])
    assert names.to_pylist() == [{"family": "3", "topic": "true"}, {"family": "3", "topic": None}]
    bad = write(tmp_path / "e.jsonl", b'{"prompt": "a", "topic": []}')
    assert "row 0: topic should be text" in refuse(bad, names=["topic"])


def test_columns_that_nobody_needs_are_not_read(tmp_path):
    times = pa.array([2**62], pa.timestamp("ns", tz="Mars/Base"))
    table = pa.table(
        {"instruction": ["a"], "when": times, "bytes": pa.array([b"\xff"]), "far": pa.array([2**52], pa.timestamp("ms"))}
    )
    pq.write_table(table, tmp_path / "d.parquet")
    assert read_table(tmp_path / "d.parquet").to_pylist() == [{"instruction": "a"}]
    assert read_table(write(tmp_path / "d.jsonl", b'{"instruction": "a", "x": [1, {"y": 2}]}')).column_names == ["instruction"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("é".encode("latin-1"), "line 1 is not UTF-8"),
        (GOOD + b'{"instruction": "\xff"}', "row 1: line 2 is not UTF-8"),
        (gzip.compress(GOOD, mtime=0)[:-9], "ended before the end-of-stream marker"),
        (b"[" * 100_000, "row 0: the array does not go on with JSON"),
        (b"[5]", "row 0: an element of the array should be a JSON object, got 5"),
        (b"[" + GOOD, "row 1: after this object the array needs a comma or its end, and the file ends"),
        (b"[" + GOOD + GOOD + b"]", "row 1: after this object the array needs a comma or its end, got '{"),
        (b"[" + GOOD + b",]", "row 1: the array does not go on with JSON"),
        (b"[" + GOOD + b"]" + GOOD, "row 1: more follows after the end of the array"),
        (b"[" + GOOD + b',{"instruction": "\xff"}]', "cannot be read: line 2 is not UTF-8: invalid start byte at byte 18"),
        (b"[ \n ]", "has no rows"),
        (b'{"a":' * 100_000, "line 1 is not JSON"),
        (GOOD[:-3], "line 1 is not JSON"),
        (GOOD + b"5", "row 1: line 2 should be a JSON object, got 5"),
        (b'{"instruction": "a", "instruction": "b"}', "the key 'instruction' is given twice"),
        (b'{"instruction": "\\ud83d"}', "half a character"),
        (b'{"instruction": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
        (b"\n \n", "has no rows"),
        (b"", "is empty"),
    ],
)
def test_a_broken_jsonl_file_is_named_with_what_is_wrong(tmp_path, content, what):
    assert what in refuse(write(tmp_path / "d.jsonl", content))


def test_a_row_may_be_long(tmp_path):
    path = write(tmp_path / "d.jsonl", json.dumps({"instruction": MILLION * 3}).encode())
    assert len(read_table(path)["instruction"][0].as_py()) == 3_000_000


def test_few_bytes_that_stand_for_very_many_are_refused_before_they_are_there(tmp_path):
    times = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([MILLION]))
    pq.write_table(pa.table({"instruction": times}), tmp_path / "one.parquet")
    rows = pa.array([[{"role": "user", "content": MILLION}] * 20] * 2)
    pq.write_table(pa.table({"messages": rows}), tmp_path / "two.parquet", compression="zstd")
    pq.write_table(pa.table({"instruction": pa.nulls(400_000, pa.string())}), tmp_path / "three.parquet")
    pq.write_table(pa.table({"instruction": [MILLION] * 50}), tmp_path / "four.parquet", compression="zstd", use_dictionary=False)
    for name in ("one", "two", "three", "four"):
        assert (tmp_path / f"{name}.parquet").stat().st_size < 1_500_000
        assert "holds more than 10 MiB of rows" in refuse(tmp_path / f"{name}.parquet", most_bytes=10 * 2**20)
    assert "holds more than 1 MiB" in refuse(write(tmp_path / "d.jsonl", GOOD * 30_000), most_bytes=2**20)


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["instruction", "instruction"]), tmp_path / "d.parquet"
    )
    assert "has two columns instruction" in refuse(tmp_path / "d.parquet")


def arrow_bytes(table: pa.Table, compression: str | None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes_give_a_table_or_one_error(tmp_path, seed):
    """Bytes of a good file changed, cut, doubled or made up."""
    rng = random.Random(seed)
    good = tmp_path / "good.parquet"
    pq.write_table(
        pa.table({"instruction": ["a", "b"], "messages": [[{"role": "user", "content": "c"}], None], "x": [1, 2]}), good
    )
    chat = b'{"messages": [{"role": "user", "content": "c"}]}'
    whole = {
        ".parquet": good.read_bytes(),
        ".jsonl": GOOD * 2 + chat,
        ".json": b"[" + GOOD + b"," + chat + b"]",
        ".csv": b'instruction,response\na,"b"\n"c, d",e\n',
        ".jsonl.gz": gzip.compress(GOOD * 20),
        ".arrow": arrow_bytes(pq.read_table(good), None),
        ".feather": arrow_bytes(pq.read_table(good), "zstd"),
    }
    outcomes = set()
    for trial in range(350):
        suffix = list(whole)[trial % len(whole)]
        content = bytearray(whole[suffix])
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(content))
            change = rng.randrange(4)
            if change == 0:
                content[place] = rng.randrange(256)
            elif change == 1:
                content[place : place + rng.randint(1, 9)] = rng.randbytes(rng.randint(0, 9))
            elif change == 2:
                content[place:place] = rng.choice([b"\x00" * 9, b"\xff" * 4, b'"', b"{" * 50, b"\n", b"[" * 2000])
            else:
                content += content[place : place + 40]
        path = write(tmp_path / f"{''.join(rng.choices(string.ascii_letters, k=3))}{suffix}", bytes(content))
        try:
            outcomes.add(read_table(path).num_rows > 0)
        except DataError as error:
            assert str(path) in str(error)
            outcomes.add(False)
    assert outcomes == {True, False}


def test_a_link_is_read_by_its_own_name(tmp_path):
    write(tmp_path / "0a1b2c", GOOD)
    (tmp_path / "c.jsonl").symlink_to(tmp_path / "0a1b2c")
    assert read_table(tmp_path / "c.jsonl").num_rows == 1
