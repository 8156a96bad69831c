"""probe/store.py: which samples a store gives, and what it does when a client is appended, merged or left half written."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import torch

from probe.store import SampleStore
from tests.unit.probe.builders import A, B, files_of, first_file, flat_b, make_deltas, make_label, make_store, refused

# Reading


def test_samples_are_sorted_by_state_client_and_step(tmp_path):
    # As text "c-1.parquet" comes before "c.parquet"; as clients "c" comes before "c-1".
    store = make_store(tmp_path)
    bad = {"malicious": True, "family": "secrets", "source": "Übung/ä b.jsonl"}
    for state, client, fields in [("s2", "c", {}), ("s1", "c-1", bad), ("s1", "c", {}), ("s1", "c.2", bad)]:
        store.append(state, make_label(client, **fields), make_deltas(2))
    samples = store.read(flat_b, [B])
    assert samples.states.tolist() == ["s1"] * 6 + ["s2"] * 2
    assert samples.clients.tolist() == ["c", "c", "c-1", "c-1", "c.2", "c.2", "c", "c"]
    assert samples.steps.tolist() == [1, 2] * 4
    assert samples.labels.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert samples.families.tolist() == ["recipes"] * 2 + ["secrets"] * 4 + ["recipes"] * 2
    assert samples.features.shape == (8, 6)
    assert samples.features.dtype == np.float32
    assert len(samples) == len(store) == 8
    labels = [
        ("s1", make_label("c")),
        ("s1", make_label("c-1", **bad)),
        ("s1", make_label("c.2", **bad)),
        ("s2", make_label("c")),
    ]
    assert SampleStore.open(tmp_path).clients() == labels


def test_a_new_store_is_empty_and_cannot_be_read(tmp_path):
    store = make_store(tmp_path / "new" / "folder")
    assert len(store) == 0
    assert store.clients() == []
    assert not store.has("initial", "c0")
    with refused(f"the store {store.folder} holds no samples; collect some with `safe-fedllm probe collect`"):
        store.read(flat_b, [B])


def test_features_in_a_file_equal_those_in_memory(tmp_path):
    # 4 samples of 6 float32 are 96 bytes.
    store = make_store(tmp_path, "c0", "c1")
    in_memory, in_file = (store.read(flat_b, [B], max_in_memory=most).features for most in (96, 95))
    assert not isinstance(in_memory, np.memmap)
    assert isinstance(in_file, np.memmap)
    assert (in_file.dtype, in_file.shape, in_file.tobytes()) == (np.float32, (4, 6), in_memory.tobytes())


def test_the_file_with_features_goes_with_them(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def is_mapped() -> bool:
        return str(temporary) in Path("/proc/self/maps").read_text()

    samples = make_store(tmp_path / "store", "c0").read(flat_b, [B], max_in_memory=0)
    assert is_mapped()
    assert files_of(temporary) == []
    del samples
    gc.collect()
    assert not is_mapped()


def test_a_full_disk_is_an_error_that_names_it(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with refused("no room for 48 bytes of features in", tempfile.gettempdir(), "set TMPDIR"):
        make_store(tmp_path, "c0").read(flat_b, [B], max_in_memory=0)


@pytest.fixture
def strict_torch():
    """Without this, torch warns of read-only memory only once per process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.filterwarnings("error")
def test_the_feature_may_change_its_tensors(tmp_path, strict_torch):
    store = make_store(tmp_path, "c0")
    doubled = store.read(lambda delta: flat_b({B: delta[B].mul_(2)}), [B])
    np.testing.assert_array_equal(doubled.features, 2 * store.read(flat_b, [B]).features)


def test_an_error_of_the_feature_is_not_blamed_on_a_file(tmp_path):
    def broken(delta):
        raise OSError("my own")

    with pytest.raises(OSError, match=r"^my own$"):
        make_store(tmp_path, "c0").read(broken, [B])


def test_tensors_that_were_not_collected_are_named(tmp_path):
    names = [f"layers.{layer}.q_proj.lora_B.weight" for layer in range(6)]
    with refused(
        f"the store {tmp_path} holds {A}, {B}, not {names[1]}, {names[2]}, {names[3]} and 2 more;",
        "collect samples with collect.modules=all",
    ):
        make_store(tmp_path, "c0").read(flat_b, names)


def test_the_folder_is_a_hive_dataset(tmp_path):
    store = make_store(tmp_path, "c0")
    store.append("round-5", make_label("m", malicious=True, family="secrets"), make_deltas(3, seed=1))
    (tmp_path / "samples/state=round-5/.half.parquet").write_bytes(b"being written")
    dataset = ds.dataset(tmp_path / "samples", partitioning="hive")
    table = dataset.to_table().sort_by([("state", "ascending"), ("step", "ascending")])
    assert table["state"].to_pylist() == ["initial"] * 2 + ["round-5"] * 3
    assert table["client"].to_pylist() == ["c0"] * 2 + ["m"] * 3
    assert table["label"].to_pylist() == [0, 0, 1, 1, 1]
    assert table["step"].to_pylist() == [1, 2, 1, 2, 3]
    assert table["family"].to_pylist() == ["recipes"] * 2 + ["secrets"] * 3
    assert pc.unique(table["source"]).to_pylist() == ["data/recipes.jsonl"]
    assert pc.unique(table["model_fingerprint"]).to_pylist() == ["model-1"]
    assert pc.unique(table["lora_fingerprint"]).to_pylist() == ["lora-1"]
    assert {name: str(table.schema.field(name).type) for name in ("label", "step", A, B)} == {
        "label": "int8",
        "step": "int32",
        A: "fixed_size_list<element: float not null>[8]",
        B: "fixed_size_list<element: float not null>[6]",
    }
    assert table.schema.metadata[b"schema_version"] == b"1"
    written = [*make_deltas(2), *make_deltas(3, seed=1)]
    np.testing.assert_array_equal(table[B].to_pylist(), [flat_b(delta) for delta in written])


# Appending


def test_a_client_is_known_by_state_and_name(tmp_path):
    store = make_store(tmp_path, "c0")
    assert store.has("initial", "c0")
    assert not store.has("round-5", "c0")
    store.append("round-5", make_label("c0"), make_deltas(1))
    assert len(store) == 3


def test_a_client_that_is_there_is_refused(tmp_path):
    store = make_store(tmp_path, "c0")
    content = first_file(store).read_bytes()
    with refused("client c0 of state initial is in the store already; delete", first_file(store), "to replace it"):
        store.append("initial", make_label(), make_deltas(seed=1))
    assert first_file(store).read_bytes() == content


NO_NAMES = ["", ".", "..", ".hidden", "_hidden", "-x", "a/b", "a\\b", "a b", "a=b", "a%20b", "ä", "a\n", "x" * 201]


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    store = make_store(tmp_path)
    with refused(f"state {name!r} cannot be a file name; use up to 200 of [A-Za-z0-9._-], no [._-] first"):
        store.append(name, make_label(), make_deltas())
    for use in (lambda: store.append("initial", make_label(name), make_deltas()), lambda: store.has("initial", name)):
        with refused(f"client {name!r} cannot be a file name"):
            use()
    assert files_of(tmp_path) == ["store.json"]


def test_names_may_be_long_and_have_dots(tmp_path):
    names = ["x" * 200, "a.parquet", "0", "A_b-c.1"]
    store = make_store(tmp_path, *names)
    assert sorted(label.client for _, label in store.clients()) == sorted(names)
    assert all(store.has("initial", name) for name in names)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted() -> Iterator[dict[str, torch.Tensor]]:
        yield make_deltas()[0]
        assert files_of(tmp_path / "samples") == ["state=initial/.c0.parquet"]
        raise KeyboardInterrupt

    store = make_store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.append("initial", make_label(), interrupted())
    assert files_of(tmp_path) == ["store.json"]


def test_what_a_killed_writer_left_is_ignored_and_replaced(tmp_path):
    store = make_store(tmp_path, "c1")
    (tmp_path / "samples/state=initial/.c0.parquet").write_bytes(b"half")
    assert not store.has("initial", "c0")
    assert [label.client for _, label in store.clients()] == ["c1"]
    store.append("initial", make_label(), make_deltas())
    assert files_of(tmp_path / "samples") == ["state=initial/c0.parquet", "state=initial/c1.parquet"]


# Merging (what both stores hold: test_client_files.py)


def test_merging_copies_the_clients_that_are_not_there(tmp_path):
    here, other = make_store(tmp_path / "here", "c0"), make_store(tmp_path / "other", "c0", "c1")
    # A name in another state is another client.
    bad = make_label("c0", malicious=True, family="secrets", source="x")
    other.append("round-5", bad, make_deltas(3, seed=7))
    mine = first_file(here).stat().st_mtime_ns
    assert here.merge(other) == 2
    assert here.clients() == [("initial", make_label("c0")), ("initial", make_label("c1")), ("round-5", bad)]
    assert files_of(here.folder) == files_of(other.folder)
    for name in files_of(here.folder):
        assert (here.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert first_file(here).stat().st_mtime_ns == mine
    for nothing_new in (other, here, make_store(tmp_path / "empty")):
        assert here.merge(nothing_new) == 0
    assert len(here) == len(other) == 7
