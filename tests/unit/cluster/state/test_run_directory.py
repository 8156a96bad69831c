"""The run directory: refuses to mix runs, replaces files whole, cleans up after a run that never began."""

import pyarrow.parquet as pq
import pytest

from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.state.run_directory import RunDirectory


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
    assert sorted(path.name for path in directory.path.iterdir()) == ["config.yaml", "run-id", "summary.json"]
    directory.remove_summary()
    directory.remove_summary()
    assert sorted(path.name for path in directory.path.iterdir()) == ["config.yaml", "run-id"]


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
