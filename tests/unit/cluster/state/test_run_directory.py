"""The run directory: refuses to mix runs, replaces files whole, cleans up after a run that never began."""

import errno
import itertools
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import CheckpointError, ConfigError
from cluster.report.run_result import RunResult
from cluster.state.run_directory import RunDirectory
from tests.unit.cluster.builders import probe_row, round_report


@pytest.mark.parametrize(("name", "why"), [("", "holds other files"), ("notes.txt", "is a file")])
def test_a_directory_with_other_files_and_a_file_are_refused(tmp_path, name, why):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=why):
        RunDirectory.create(tmp_path / name, RunConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_never_began_leaves_its_name_free(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    with pytest.raises(RuntimeError, match="no"), directory.discarded_on_error():
        raise RuntimeError("no")
    assert not (tmp_path / "run").exists()
    RunDirectory.create(tmp_path / "run", RunConfig())


def test_no_temporary_files_stay_and_the_outcome_of_an_earlier_end_can_be_removed(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    directory.write_summary({"x": 1})
    assert sorted(path.name for path in directory.path.iterdir()) == [".lease", "config.yaml", "run-id", "summary.json"]
    directory.remove_summary()
    directory.remove_summary()
    assert sorted(path.name for path in directory.path.iterdir()) == [".lease", "config.yaml", "run-id"]


def test_every_version_of_the_probe_has_a_folder(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    for version in (1, 2):
        directory.write_probe(version, {"probe.safetensors": b"numbers", "probe.json": b"{}"})
    assert (directory.path / "probes" / "v2" / "probe.safetensors").read_bytes() == b"numbers"


def test_a_run_is_reopened_and_nothing_else(tmp_path):
    RunDirectory.create(tmp_path / "run", RunConfig())
    directory = RunDirectory.reopen(tmp_path / "run")
    with pytest.raises(RuntimeError, match="no"), directory.discarded_on_error():
        raise RuntimeError("no")
    assert (tmp_path / "run/config.yaml").exists()
    with pytest.raises(ConfigError, match=r"other holds no run"):
        RunDirectory.reopen(tmp_path / "other")


def test_clients_that_join_are_benign(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    directory.write_ground_truth(["a", "b"], {"b"})
    directory.add_benign(["a", "b", "c"])
    table = pq.read_table(directory.path / "ground_truth.parquet")
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert table.to_pydict() == {"client_id": ["a", "b", "c"], "malicious": [False, True, False]}


def test_a_run_keeps_its_id_and_no_two_have_the_same(tmp_path):
    one, other = (RunDirectory.create(tmp_path / name, RunConfig()) for name in ("one", "other"))
    assert RunDirectory.reopen(one.path).run_id == one.run_id != other.run_id
    (other.path / "run-id").unlink()  # as in a run of an earlier release
    assert RunDirectory.reopen(other.path).run_id is None


KILLED = """
import os, signal, sys
from pathlib import Path
from cluster.config.schema import RunConfig
from cluster.report.run_result import RunResult
from cluster.state.run_directory import RunDirectory
from tests.unit.cluster.builders import probe_row, round_report

def count(module, name, calls, step):
    original = getattr(module, name)
    def counted(*arguments, **options):
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(module, name, counted)

for step in range(1000):
    path = Path(sys.argv[1]) / str(step)
    if sys.argv[2] == "True":
        path.mkdir()
    if not os.fork():
        calls = iter(range(1000))
        for module, name in ((os, "fsync"), (Path, "replace"), (Path, "open")):
            count(module, name, calls, step)
        RunDirectory.create(path, RunConfig())
        os._exit(0)
    if os.wait()[1] == 0:
        break
"""


@pytest.mark.parametrize("was_there", [False, True])
def test_a_kill_at_any_step_of_the_beginning_is_in_nobodys_way(tmp_path, was_there):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(was_there)], timeout=60, check=True)
    begun = sorted(tmp_path.iterdir())
    assert len(begun) > 10
    for path in begun:
        if not (path / "config.yaml").exists():
            RunDirectory.create(path, RunConfig()).release()
        directory = RunDirectory.reopen(path)
        assert len(directory.run_id) == 32
        assert load_config(path / "config.yaml") == RunConfig()
        directory.take()
        assert sorted(entry.name for entry in path.iterdir()) == [".lease", "config.yaml", "run-id"]
        directory.release()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_at_any_write_of_the_beginning_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch, code):
    original, path = os.fsync, tmp_path / "run"
    for step in itertools.count():
        calls = itertools.count()

        def failing(descriptor, calls=calls, step=step):
            if next(calls) == step:
                raise OSError(code, os.strerror(code))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        try:
            directory = RunDirectory.create(path, RunConfig())
        except ConfigError as error:
            assert str(error) == f"--output {path}: {os.strerror(code)}; name a place with room that this user can write to"
            monkeypatch.setattr(os, "fsync", original)
            RunDirectory.create(path, RunConfig()).release()
            shutil.rmtree(path)
        else:
            directory.release()
            break
    assert step > 4


def test_of_two_that_begin_at_once_one_succeeds_and_loses_nothing(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from cluster.config.schema import RunConfig; "
        "from cluster.state.run_directory import RunDirectory; directory = RunDirectory.create(Path(sys.argv[1]), RunConfig()); "
        "print('mine', flush=True); time.sleep(2)"
    )
    for number in range(2):
        path = tmp_path / str(number)
        both = [
            subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=60) for process in both]
        assert sorted(out for out, _ in said) == ["", "mine\n"]
        (why,) = [error for out, error in said if not out]
        assert "belongs to another driver, process" in why or "holds another run" in why or "at the same moment" in why
        assert sorted(entry.name for entry in path.iterdir()) == [".lease", "config.yaml", "run-id"]


def test_a_link_to_a_directory_is_a_place_for_a_run_and_hides_no_error(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    directory = RunDirectory.create(tmp_path / "link", RunConfig())
    assert (tmp_path / "real" / "config.yaml").is_file()
    with pytest.raises(RuntimeError, match="the real error"), directory.discarded_on_error():
        raise RuntimeError("the real error")
    assert list((tmp_path / "real").iterdir()) == []


def test_who_lost_the_directory_writes_nothing_more(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    directory.release()
    RunDirectory.reopen(tmp_path / "run").take()
    with pytest.raises(CheckpointError, match="was taken over by process"):
        directory.write_summary({"x": 1})
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_version_of_the_probe_stays_in_its_folder(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    with pytest.raises(ValueError, match="cannot be a file name"):
        directory.write_probe(1, {"../../x": b""})


def test_rounds_grow_and_read_as_one_table(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    assert not directory.has_committed
    assert RunResult(directory.path, {}).rounds.num_rows == 0
    first, second = round_report(0, {"a": 1.0, "b": None}), round_report(1, {"a": 0.5})
    directory.write_rounds([first])
    directory.write_rounds([first, second])
    directory.write_probe_rounds([probe_row(0), probe_row(1)])
    assert directory.has_committed
    assert RunResult(directory.path, {}).rounds.select(["round", "client_id"]).to_pylist() == [
        {"round": 0, "client_id": "a"},
        {"round": 0, "client_id": "b"},
        {"round": 1, "client_id": "a"},
    ]
    table = pq.read_table(directory.path / "probe.parquet")
    assert table["round"].to_pylist() == [0, 1]
    assert table.schema.metadata[b"schema_version"] == b"1"
    directory.release()
    RunDirectory.reopen(tmp_path / "run").take()
    with pytest.raises(CheckpointError, match="was taken over by process"):
        directory.write_rounds([first, second, round_report(2, {"a": 1.0})])
    assert RunResult(directory.path, {}).rounds.num_rows == 3
