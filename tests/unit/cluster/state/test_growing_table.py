"""cluster/state/growing_table.py: a table of which each round is written once."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.state.growing_table import GrowingTable
from cluster.state.place import Place


def rounds(*indices: int, value: int = 0):
    return {index: lambda index=index: pa.table({"round": [index], "value": [value]}) for index in indices}


def opened(tmp_path) -> GrowingTable:
    return GrowingTable(Place(str(tmp_path)), "t.parquet")


def test_it_reads_as_one_table_in_order_of_rounds(tmp_path):
    table = opened(tmp_path)
    table.write(rounds(10, 2, 0))
    table.write(rounds(10, 2, 0, 1))
    assert pq.read_table(tmp_path / "t.parquet")["round"].to_pylist() == [0, 1, 2, 10]


def test_a_round_is_written_once(tmp_path):
    table = opened(tmp_path)
    for count in (1, 2, 3):
        before = {path: path.stat().st_ino for path in tmp_path.glob("t.parquet/*")}
        table.write(rounds(*range(count), value=count))
        assert {path: path.stat().st_ino for path in before} == before
    assert pq.read_table(tmp_path / "t.parquet")["value"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("left", [3, 1, 0])
def test_a_resumed_run_replaces_what_it_goes_on_from(tmp_path, left):
    opened(tmp_path).write(rounds(0, 1, 2))
    (tmp_path / "t.parquet" / ".round-000003.parquet.abc.tmp").write_bytes(b"half")
    resumed = opened(tmp_path)
    resumed.write(rounds(*range(left), value=1))
    resumed.write(rounds(*range(left + 1), value=1))
    names = sorted(path.name for path in (tmp_path / "t.parquet").iterdir())
    assert names == [f"round-{index:06d}.parquet" for index in range(left + 1)]
    assert pq.read_table(tmp_path / "t.parquet")["value"].to_pylist() == [1] * (left + 1)
