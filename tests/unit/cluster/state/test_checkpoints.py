"""Checkpoints on a real file system: complete or absent, only the newest kept, damage refused with the file's name."""

import errno
import itertools
import json
import os
import resource
from contextlib import contextmanager

import pytest

from cluster.errors import CheckpointError, ConfigError
from cluster.state.checkpoints import Checkpoints, below
from cluster.state.lease import Lease
from cluster.state.manifest import FileEntry, Manifest, decode_manifest, digest, encode_manifest


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(str(tmp_path / "run"), keep=2)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_was_saved_comes_back(checkpoints, tmp_path, scheme):
    files = {"adapter.safetensors": b"\x00\x01", "probe-probe.json": b"{}"}
    assert (checkpoints.load(), checkpoints.complete()) == (None, [])
    Checkpoints(f"{scheme}{tmp_path}/run", keep=2).save(3, files)
    assert checkpoints.load() == (3, files)


def test_only_the_newest_are_kept(checkpoints):
    for number in (1, 2, 3, 10):
        checkpoints.save(number, {"a": str(number).encode()})
    assert checkpoints.complete() == [3, 10]
    assert checkpoints.load(3) == (3, {"a": b"3"})


@pytest.fixture
def told():
    return []


@pytest.fixture
def telling(tmp_path, told):
    return Checkpoints(str(tmp_path / "run"), keep=2, run="mine", tell=told.append)


def manifests(tmp_path) -> list:
    return sorted(tmp_path.glob("run/round-*/manifest.json"))


def test_a_checkpoint_without_a_manifest_was_never_finished(telling, tmp_path, told):
    telling.save(1, {"a": b"1"})
    telling.save(2, {"a": b"2"})
    manifests(tmp_path)[-1].unlink()
    assert telling.load() == (1, {"a": b"1"})
    assert told == []
    telling.save(2, {"b": b"again"})
    assert telling.load() == (2, {"b": b"again"})
    assert len(folders(tmp_path)) == 2


@pytest.mark.parametrize("alone", [True, False])
def test_every_flipped_bit_and_every_cut_of_a_manifest_is_refused_or_told(telling, tmp_path, told, alone):
    if not alone:
        telling.save(1, {"a": b"1"})
    telling.save(2, {"adapter.safetensors": b"22"})
    path = manifests(tmp_path)[-1]
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(content))
    for content in damaged:
        path.write_bytes(content)
        told.clear()
        if alone:
            with pytest.raises(CheckpointError, match=r"round-00002\.0\.0/manifest.json .*start another run"):
                telling.load()
        else:
            assert telling.load() == (1, {"a": b"1"})
            (why,) = told
            assert "round-00002.0.0/manifest.json" in why
            assert "goes on from the checkpoint after 1 rounds" in why
    path.write_bytes(whole)
    assert telling.load() == (2, {"adapter.safetensors": b"22"})


def test_what_lies_there_never_blocks_the_next_save(telling, tmp_path, told):
    Checkpoints(str(tmp_path / "run"), keep=2, run="other").save(1, {"a": b"0"})
    telling.save(2, {"a": b"2"})
    for number, content in enumerate((b"", b"[" * 100_000, b"\xff", b'{"schema_version": 2}', b"7")):
        folder = tmp_path / f"run/round-0000{number + 3}.0.0"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(content)
    telling.save(8, {"a": b"8"})
    telling.save(9, {"a": b"9"})
    assert telling.load() == (9, {"a": b"9"})
    assert folders(tmp_path) == ["round-00001.0.0", "round-00008.0.0", "round-00009.0.0"]  # the first is the other run's


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ".x", "", "a\n", "a\\b"])
def test_a_stored_name_that_is_no_plain_file_name_is_refused(telling, tmp_path, name):
    with pytest.raises(ValueError, match="cannot be a file name"):
        telling.save(1, {name: b""})
    entry = FileEntry(sha256=digest(b""), bytes=0)
    forged = encode_manifest(Manifest.model_construct(schema_version=3, run="mine", rounds_done=1, epoch=0, files={name: entry}))
    with pytest.raises(CheckpointError, match="is damaged"):
        decode_manifest(forged)


def test_a_changed_or_missing_file_is_refused_by_name(telling, tmp_path, told):
    telling.save(1, {"adapter.safetensors": b"1"})
    path = tmp_path / "run/round-00001.0.0/adapter.safetensors"
    path.write_bytes(b"2")
    with pytest.raises(CheckpointError, match=r"round-00001.0.0/adapter.safetensors .*hash mismatch"):
        telling.load()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"adapter.safetensors is missing"):
        telling.load()
    telling.save(2, {})
    telling.save(1, {"adapter.safetensors": b"3"})
    assert told == []


def test_a_round_without_a_checkpoint_is_refused_with_a_list_of_the_others(checkpoints):
    checkpoints.save(4, {})
    with pytest.raises(CheckpointError, match=r"after 2 rounds, it has \[4\]; raise checkpoint.keep"):
        checkpoints.load(2)


def test_another_schema_is_refused(checkpoints, tmp_path):
    checkpoints.save(1, {})
    path = tmp_path / "run/round-00001.0.0/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(CheckpointError, match="schema_version 99"):
        checkpoints.load()


def owned(tmp_path, keep: int = 9) -> tuple[Checkpoints, Lease]:
    place = Checkpoints(str(tmp_path / "run"), keep=keep, run="mine")
    lease = Lease(place.place)
    place.own(lease)
    return place, lease


def test_a_run_that_goes_back_rejects_later_checkpoints_by_one_manifest_and_removes_the_newest_first(tmp_path, monkeypatch):
    first, lease = owned(tmp_path)
    for number in range(1, 6):
        first.save(number, {"a": b"old"})
    lease.close()
    second, lease = owned(tmp_path)
    removed = []
    monkeypatch.setattr(Checkpoints, "_remove", lambda self, folder: removed.append(folder))  # as if killed before each
    second.save(2, {"a": b"new"})
    assert removed == ["round-00005.1.0", "round-00004.1.0", "round-00003.1.0", "round-00002.1.0"]
    assert len(folders(tmp_path)) == 6
    assert second.complete() == [1, 2]
    assert second.load() == (2, {"a": b"new"})
    with pytest.raises(CheckpointError, match=r"no checkpoint after 4 rounds"):
        second.load(4)
    monkeypatch.undo()
    second.save(3, {"a": b"new"})
    assert folders(tmp_path) == ["round-00001.1.0", "round-00002.2.0", "round-00003.2.0"]


def test_a_driver_that_lost_its_lease_commits_nothing_more_and_what_it_wrote_late_does_not_count(tmp_path):
    slow, lease = owned(tmp_path)
    slow.save(1, {"a": b"1"})
    lease.close()
    other, _ = owned(tmp_path)
    with pytest.raises(CheckpointError, match="was taken over by process"):
        slow.save(2, {"a": b"late"})
    other.save(2, {"a": b"2"})
    late = Checkpoints(str(tmp_path / "run"), keep=9, run="mine")  # its manifest was under way when the lease was lost
    late.save(3, {"a": b"late"})
    assert other.load() == (2, {"a": b"2"})


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
    return sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lease")


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
    with small_disk(), pytest.raises(CheckpointError, match=r"round-00007.0.1/b cannot be written: .*too large; make room"):
        checkpoints.save(7, {"a": b"2", "b": bytes(10_000)})
    assert checkpoints.load() == (7, {"a": b"1"})
    checkpoints.save(7, {"a": b"3"})
    assert checkpoints.load() == (7, {"a": b"3"})
    assert len(folders(tmp_path)) == 1


def test_a_full_disk_at_any_write_of_a_save_costs_no_checkpoint_and_says_how_to_go_on(tmp_path, monkeypatch):
    original = os.fsync
    for step in itertools.count():
        checkpoints = Checkpoints(str(tmp_path / f"{step}"), keep=1, go_on="safe-fedllm run --resume DIR")
        checkpoints.save(7, {"a": b"1"})
        calls = itertools.count()

        def failing(descriptor, calls=calls, step=step):
            if next(calls) == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        try:
            checkpoints.save(8, {"a": b"2", "b": b"3"})
        except CheckpointError as error:
            monkeypatch.setattr(os, "fsync", original)
            assert "No space left on device; make room there or let this user write, then go on with: safe-" in str(error)
            assert checkpoints.load() in [(7, {"a": b"1"}), (8, {"a": b"2", "b": b"3"})]
            checkpoints.save(8, {"a": b"4"})
            assert checkpoints.load() == (8, {"a": b"4"})
            assert len(list((tmp_path / f"{step}").iterdir())) == 1
        else:
            break
    assert step == 7  # a file and its folder's entry each: two files, the manifest, and the folder of the checkpoint


def test_of_two_complete_checkpoints_of_a_round_the_newest_is_loaded_and_the_other_removed(checkpoints, tmp_path):
    checkpoints.save(7, {"a": b"1"})
    (tmp_path / "run/round-00007.0.0").rename(tmp_path / "kept")
    checkpoints.save(7, {"a": b"2"})
    (tmp_path / "run/round-00007.0.0").rename(tmp_path / "run/round-00007.0.10")
    (tmp_path / "kept").rename(tmp_path / "run/round-00007.0.9")  # as if killed before it was removed
    assert checkpoints.load() == (7, {"a": b"2"})
    checkpoints.save(8, {})
    assert folders(tmp_path) == ["round-00007.0.10", "round-00008.0.0"]


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
    mine, other = (Checkpoints(str(tmp_path / "run"), keep=1, run=run) for run in ("mine", "other"))
    mine.save(1, {"a": b"1"})
    with pytest.raises(CheckpointError, match=r"round-00001.0.0 was written by another run \(mine, this one is other\); give"):
        other.load()
    other.save(2, {"a": b"2"})
    mine.save(3, {"a": b"3"})
    assert folders(tmp_path) == ["round-00002.0.0", "round-00003.0.0"]
    assert other.load() == (2, {"a": b"2"})
