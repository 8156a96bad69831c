"""What wandb writes in its mode offline, read with its own messages."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("wandb", reason="wandb is not installed: pip install 'safe-fedllm[wandb]'")
from wandb.proto.wandb_internal_pb2 import Record

from cluster.tracking.wandb import WeightsAndBiases
from tests.unit.cluster.tracking.runs import listen

_BLOCK, _HEADER = 32768, 7
_FULL, _LAST = 1, 4


def records(folder: Path) -> Iterator[Record]:
    """Of the one file in LevelDB's log format: blocks of 32 KiB, in which each piece has a checksum, a length and a kind."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, whole = file.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += _HEADER + length
        whole += data[at - length : at]
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def written(folder: Path) -> list[Record]:
    """All records of a run that has ended. The process that writes them may do so after `finish` has returned."""
    until = time.monotonic() + 30
    while not any(record.HasField("exit") for record in records(folder)):
        assert time.monotonic() < until, "wandb wrote no end of the run"
        time.sleep(0.05)
    return list(records(folder))


def points(found: list[Record], name: str) -> list[tuple[int, float]]:
    rows = [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    return [(row["rounds_done"], row[name]) for row in rows if name in row]


def config(found: list[Record]) -> dict[str, object]:
    updates = [r.run.config if r.HasField("run") else r.config for r in found if r.HasField("run") or r.HasField("config")]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for own in updates for item in own.update}


def test_parameters_figures_by_rounds_done_and_the_adapter(run):
    listen(WeightsAndBiases(run), run)
    found = written(run.path)
    (own,) = [record.run for record in found if record.HasField("run")][-1:]
    assert (own.run_id, own.display_name, own.project) == ("0123abcd", "mine", "safe-fedllm")
    assert (config(found)["rounds"], config(found)["checkpoint.path"]) == (2, "s3://bucket")
    assert points(found, "evaluation/rule_score") == [(0, 0.9), (2, 0.8)]
    assert points(found, "round/clients") == [(1, 2), (2, 1)]
    (artefact,) = [record.artifact for record in found if record.HasField("artifact")]
    assert [entry.path for entry in artefact.manifest.contents] == ["adapter_config.json"]
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]


def test_a_run_that_broke_off_has_failed_and_another_of_the_process_is_left_alone(run):
    import wandb

    others = wandb.init(dir=run.path.parent, reinit="create_new")
    listen(WeightsAndBiases(run), run, to_the_end=False)
    others.log({"theirs": 1})
    others.finish()
    assert [record.exit.exit_code for record in written(run.path) if record.HasField("exit")] == [1]
