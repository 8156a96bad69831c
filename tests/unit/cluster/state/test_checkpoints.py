"""Checkpoints on a real file system: complete or absent, only the newest kept, damage refused with the file's name."""

import json
import resource
from contextlib import contextmanager

import pytest

from cluster.errors import CheckpointError, ConfigError
from cluster.state.checkpoints import Checkpoints, below


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(str(tmp_path / "run"), keep=2)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_was_saved_comes_back(checkpoints, tmp_path, scheme):
    files = {"adapter.safetensors": b"\x00\x01", "probe/probe.json": b"{}"}
    assert (checkpoints.load(), checkpoints.complete()) == (None, [])
    Checkpoints(f"{scheme}{tmp_path}/run", keep=2).save(3, files)
    assert checkpoints.load() == (3, files)


def test_only_the_newest_are_kept(checkpoints):
    for number in (1, 2, 3, 10):
        checkpoints.save(number, {"a": str(number).encode()})
    assert checkpoints.complete() == [3, 10]
    assert checkpoints.load(3) == (3, {"a": b"3"})


@pytest.mark.parametrize("manifest", [None, b"", b'{"files": {'])
def test_a_checkpoint_without_a_whole_manifest_does_not_exist(checkpoints, tmp_path, manifest):
    checkpoints.save(1, {"a": b"1"})
    checkpoints.save(2, {"a": b"2"})
    path = tmp_path / "run/round-00002/manifest.json"
    path.unlink()
    if manifest is not None:
        path.write_bytes(manifest)
    assert checkpoints.load() == (1, {"a": b"1"})
    checkpoints.save(2, {"b": b"again"})
    assert checkpoints.load() == (2, {"b": b"again"})


def test_a_changed_or_missing_file_is_refused_by_name(checkpoints, tmp_path):
    checkpoints.save(1, {"adapter.safetensors": b"1"})
    path = tmp_path / "run/round-00001/adapter.safetensors"
    path.write_bytes(b"2")
    with pytest.raises(CheckpointError, match=r"round-00001/adapter.safetensors .*hash mismatch"):
        checkpoints.load()
    path.unlink()
    with pytest.raises(CheckpointError, match="missing; remove that folder"):
        checkpoints.load()


def test_a_round_without_a_checkpoint_is_refused_with_a_list_of_the_others(checkpoints):
    checkpoints.save(4, {})
    with pytest.raises(CheckpointError, match=r"after 2 rounds, it has \[4\]; raise checkpoint.keep"):
        checkpoints.load(2)


def test_another_schema_is_refused(checkpoints, tmp_path):
    checkpoints.save(1, {})
    path = tmp_path / "run/round-00001/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(CheckpointError, match="schema_version 99"):
        checkpoints.load()


def test_later_checkpoints_are_removed_when_a_run_goes_back(checkpoints):
    for number in (1, 2):
        checkpoints.save(number, {})
    checkpoints.remove_after(1)
    assert checkpoints.complete() == [1]


def test_a_uri_that_no_file_system_answers_to_is_refused_by_key():
    with pytest.raises(ConfigError, match=r"checkpoint.path=nosuch://bucket/x: .*name a directory or a URI"):
        Checkpoints("nosuch://bucket/x", keep=1)


def test_writing_is_tried_and_leaves_nothing_behind(checkpoints, tmp_path):
    checkpoints.check_writable()
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write to .*/file/run: .*; name another place"):
        Checkpoints(str(tmp_path / "file/run"), keep=1).check_writable()


def test_the_options_of_a_uri_stay_behind_the_runs_name():
    assert below("s3://bucket/runs/?region=eu-west-1&scheme=http", "mine") == "s3://bucket/runs/mine?region=eu-west-1&scheme=http"
    assert below("/shared/really?/", "mine") == "/shared/really?/mine"


def folders(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run").iterdir())


def test_a_round_that_is_saved_again_replaces_its_checkpoint(checkpoints, tmp_path):
    for content in (b"1", b"2", b"3"):
        checkpoints.save(7, {"a": content})
        assert checkpoints.load() == (7, {"a": content})
        assert len(folders(tmp_path)) == 1
    assert checkpoints.complete() == [7]


@contextmanager
def small_disk():
    """Limit files to 4 kB within the block, no longer: the log of the tests may be a file too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_no_checkpoint_that_was_there(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "run"), keep=1)
    checkpoints.save(7, {"a": b"1"})
    with small_disk(), pytest.raises(OSError, match="too large"):
        checkpoints.save(7, {"a": b"2", "b": bytes(10_000)})
    assert checkpoints.load() == (7, {"a": b"1"})
    checkpoints.save(7, {"a": b"3"})
    assert checkpoints.load() == (7, {"a": b"3"})
    assert len(folders(tmp_path)) == 1


def test_of_two_complete_checkpoints_of_a_round_the_newest_is_loaded_and_the_other_removed(checkpoints, tmp_path):
    checkpoints.save(7, {"a": b"1"})
    (tmp_path / "run/round-00007").rename(tmp_path / "kept")
    checkpoints.save(7, {"a": b"2"})
    (tmp_path / "run/round-00007").rename(tmp_path / "run/round-00007.10")
    (tmp_path / "kept").rename(tmp_path / "run/round-00007.9")  # as if killed before it was removed
    assert checkpoints.load() == (7, {"a": b"2"})
    checkpoints.save(8, {})
    assert folders(tmp_path) == ["round-00007.10", "round-00008"]


def test_a_new_run_does_not_take_other_checkpoints_for_its_own(checkpoints, tmp_path):
    checkpoints.check_unused()
    checkpoints.save(2, {})
    with pytest.raises(
        ConfigError, match=r"checkpoint.path: .*/run holds checkpoints of another run \(after rounds \[2\]\); name"
    ):
        Checkpoints(str(tmp_path / "run"), keep=2).check_unused()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"checkpoint.path: .*/file cannot be read"):
        Checkpoints(str(tmp_path / "file"), keep=2).check_unused()


def test_another_runs_checkpoints_are_neither_loaded_nor_removed(tmp_path):
    mine, other, anybody = (Checkpoints(str(tmp_path / "run"), keep=1, run=run) for run in ("mine", "other", None))
    mine.save(1, {"a": b"1"})
    for use in (other.load, lambda: other.save(1, {}), lambda: other.save(2, {})):
        with pytest.raises(
            CheckpointError, match=r"round-00001 was written by another run \(mine, this one is other\); give each"
        ):
            use()
    mine.save(2, {"a": b"2"})
    assert mine.load() == anybody.load() == (2, {"a": b"2"})
    assert folders(tmp_path) == ["round-00002"]
    anybody.save(3, {"a": b"3"})  # as a run of an early release
    assert mine.load() == (3, {"a": b"3"})
