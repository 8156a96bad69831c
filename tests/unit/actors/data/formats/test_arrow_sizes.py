"""Sizes that packed Arrow messages say of themselves, against those of the batches that pyarrow unpacks."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from actors.data.formats.arrow_sizes import unpacked_bytes

ROOT = Path(__file__).parents[5]
TEXTS = ["abc" * i for i in range(1000)]
TABLE = pa.table({"prompt": TEXTS, "completion": pa.array(TEXTS).dictionary_encode(), "number": range(1000)})


def messages(path: Path, compression: str | None) -> list[pa.ipc.Message]:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, TABLE.schema, options=options) as stream:
        stream.write_table(TABLE, max_chunksize=400)
    return list(pa.ipc.MessageReader.open_stream(pa.BufferReader(path.read_bytes())))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_sizes_are_those_of_the_buffers(tmp_path, compression):
    found = [(message.type, unpacked_bytes(message)) for message in messages(tmp_path / "d.arrow", compression)]
    assert [kind for kind, _ in found] == ["schema", "dictionary", "record batch", "record batch", "record batch"]
    plain = sum(len(text) for text in TEXTS)
    assert found[0][1] == 0
    assert found[1][1] >= plain and found[1][1] <= plain + 8 * 1001
    texts = [sum(map(len, TEXTS[start : start + 400])) for start in (0, 400, 800)]
    rows = [400, 400, 200]
    # characters and offsets of the text, indices and numbers; a buffer too small to pack is stored as it is and not counted
    for (_, size), text, count in zip(found[2:], texts, rows, strict=True):
        assert text <= size <= text + 64 + count * (4 + 4 + 8) + 64


def test_what_is_not_packed_is_not_counted(tmp_path):
    assert {unpacked_bytes(message) for message in messages(tmp_path / "d.arrow", None)} == {0}


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path, compression):
    table = pa.table({"prompt": ["x" * 1000] * 300_000, "completion": ["y"] * 300_000})
    pyarrow.feather.write_feather(table, tmp_path / "d.feather", compression=compression, chunksize=300_000)
    code = f"""
import resource, pathlib, actors.data.files as files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    files.read_table(pathlib.Path({str(tmp_path / "d.feather")!r}), most_bytes=100 * 2**20)
except files.DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    said, mebibytes = done.stdout.splitlines()
    assert "holds more than 100 MiB of rows" in said
    assert int(mebibytes) < 50
