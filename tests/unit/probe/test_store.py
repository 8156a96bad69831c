"""probe/store.py: samples come back to the bit, and whatever cannot be one of them is refused by name."""

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.store import ReferenceLabel, SampleStore, StoreMeta

A = "layers.0.q_proj.lora_A.weight"
B = "layers.0.q_proj.lora_B.weight"


def make_meta(**changes) -> StoreMeta:
    fields = {
        "shapes": {B: (3, 2), A: (2, 4)},
        "layers": {B: 0, A: 0},
        "model_fingerprint": "model-1",
        "lora_fingerprint": "lora-1",
        "recipe": {"learning_rate": 1e-3, "steps": 2, "batch_size": 16, "weight_decay": 0.0},
    }
    return StoreMeta(**{**fields, **changes})


def label(client: str = "c0", **changes) -> ReferenceLabel:
    fields = {"client": client, "malicious": False, "family": "recipes", "source": "data/recipes.jsonl"}
    return ReferenceLabel(**{**fields, **changes})


def deltas(num: int = 2, seed: int = 0, shapes=None) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or make_meta().shapes
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(num)]


def new_store(folder: Path, *clients: str, **meta) -> SampleStore:
    """With two steps of each client, the first seeded 0, the next 1 ..."""
    store = SampleStore.create_or_open(folder, make_meta(**meta))
    for seed, client in enumerate(clients):
        store.append("initial", label(client), deltas(seed=seed))
    return store


def flat_b(delta) -> np.ndarray:
    return delta[B].reshape(-1).numpy()


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(*parts: object):
    """A ValueError that says all these parts, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(re.escape(str(part)) for part in parts))


def rewrite(path: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a client file's table."""
    pq.write_table(edit(pq.read_table(path, partitioning=None)), path)


def set_column(table: pa.Table, name: str, values: list) -> pa.Table:
    """The table with other values in a column of the same type."""
    index = table.schema.get_field_index(name)
    field = table.schema.field(index)
    return table.set_column(index, field, pa.array(values, field.type))


def damage(store: SampleStore, name: str) -> None:
    """Flip a bit of the first row's last value of a tensor."""
    path = first_file(store)
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    (chunk,) = [column for column in columns if column.path_in_schema.startswith(name)]
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(content)


def first_file(store: SampleStore) -> Path:
    return store.folder / "samples/state=initial/c0.parquet"


# Round trip


def test_deltas_come_back_to_the_bit(tmp_path):
    # Signs of zero, denormals and the largest float survive only a copy without arithmetic.
    odd = torch.tensor([0.0, -0.0, 1e-45, -1e-40, torch.finfo(torch.float32).max, 1 / 3])
    written = [{B: odd.reshape(3, 2), A: torch.zeros(2, 4)}, *deltas()]
    new_store(tmp_path).append("initial", label(), written)
    seen = []
    SampleStore.open(tmp_path).read(lambda delta: seen.append(delta) or flat_b(delta), [A, B])
    assert len(seen) == 3
    for sample, original in zip(seen, written, strict=True):
        assert sample.keys() == {A, B}
        for name in (A, B):
            assert sample[name].shape == original[name].shape
            assert sample[name].numpy().tobytes() == original[name].numpy().tobytes()


def test_a_tensor_is_kept_row_by_row_whatever_its_memory_layout_and_gradient(tmp_path):
    transposed = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    new_store(tmp_path).append("initial", label(), [{B: transposed, A: torch.zeros(2, 4)}])
    assert SampleStore.open(tmp_path).read(flat_b, [B]).features.tolist() == [[0, 3, 1, 4, 2, 5]]


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.dictionaries(
        st.from_regex(r"[a-z]{1,5}\.[0-9]\.lora_[AB]\.weight", fullmatch=True),
        st.lists(st.integers(1, 5), max_size=3).map(tuple),
        min_size=1,
        max_size=4,
    ),
    num_steps=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_shapes_come_back(shapes, num_steps, seed):
    with tempfile.TemporaryDirectory() as folder:
        meta = make_meta(shapes=shapes, layers=dict.fromkeys(shapes, 0))
        store = SampleStore.create_or_open(Path(folder), meta)
        written = deltas(num_steps, seed, shapes)
        store.append("initial", label(), written)
        assert SampleStore.open(Path(folder)).meta == meta

        def everything(delta):
            assert {name: tuple(tensor.shape) for name, tensor in delta.items()} == shapes
            return np.concatenate([delta[name].reshape(-1).numpy() for name in sorted(shapes)])

        read = store.read(everything, list(shapes))
        assert read.features.tobytes() == np.stack([everything(delta) for delta in written]).tobytes()


def test_samples_are_sorted_by_state_client_and_step(tmp_path):
    # As text "c-1.parquet" comes before "c.parquet"; as clients "c" comes before "c-1".
    store = new_store(tmp_path)
    bad = {"malicious": True, "family": "secrets", "source": "x"}
    for state, client, fields in [("s2", "c", {}), ("s1", "c-1", bad), ("s1", "c", {}), ("s1", "c.2", bad)]:
        store.append(state, label(client, **fields), deltas(2))
    samples = store.read(flat_b, [B])
    assert samples.states.tolist() == ["s1"] * 6 + ["s2"] * 2
    assert samples.clients.tolist() == ["c", "c", "c-1", "c-1", "c.2", "c.2", "c", "c"]
    assert samples.steps.tolist() == [1, 2] * 4
    assert samples.labels.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert samples.families.tolist() == ["recipes"] * 2 + ["secrets"] * 4 + ["recipes"] * 2
    assert samples.features.shape == (8, 6)
    assert samples.features.dtype == np.float32
    assert len(samples) == len(store) == 8


def test_clients_come_back_with_their_labels(tmp_path):
    store = new_store(tmp_path)
    first, second = label("b", malicious=True, family="secrets", source="Übung/ä b.jsonl"), label("a")
    store.append("s2", second, deltas(1))
    store.append("s1", first, deltas(3))
    assert SampleStore.open(tmp_path).clients() == [("s1", first), ("s2", second)]
    assert len(store) == 4


def test_a_new_store_is_empty(tmp_path):
    store = new_store(tmp_path / "new" / "folder")
    assert len(store) == 0
    assert store.clients() == []
    assert not store.has("initial", "c0")


# Reading


def test_only_the_columns_of_the_names_are_read(tmp_path):
    store = new_store(tmp_path, "c0")
    damage(store, A)
    seen = []
    samples = store.read(lambda delta: seen.append(set(delta)) or flat_b(delta), [B])
    assert seen == [{B}, {B}]
    assert samples.features.tobytes() == np.stack([flat_b(delta) for delta in deltas()]).tobytes()
    with refused(first_file(store), "cannot be read", "delete the file and collect its client again"):
        store.read(flat_b, [A, B])


def test_labels_and_number_are_read_without_the_deltas(tmp_path):
    store = new_store(tmp_path, "c0")
    damage(store, A)
    damage(store, B)
    assert len(store) == 2
    assert store.clients() == [("initial", label())]


def test_features_in_a_file_equal_those_in_memory(tmp_path):
    # 4 samples of 6 float32 are 96 bytes.
    store = new_store(tmp_path, "c0", "c1")
    in_memory = store.read(flat_b, [B], max_in_memory=96)
    in_file = store.read(flat_b, [B], max_in_memory=95)
    assert not isinstance(in_memory.features, np.memmap)
    assert isinstance(in_file.features, np.memmap)
    assert in_file.features.dtype == np.float32
    assert in_file.features.shape == in_memory.features.shape == (4, 6)
    assert in_file.features.tobytes() == in_memory.features.tobytes()


def test_the_file_with_features_goes_with_them(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def is_mapped() -> bool:
        return str(temporary) in Path("/proc/self/maps").read_text()

    samples = new_store(tmp_path / "store", "c0").read(flat_b, [B], max_in_memory=0)
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
        new_store(tmp_path, "c0").read(flat_b, [B], max_in_memory=0)


@pytest.fixture
def strict_torch():
    """Without this, torch warns of read-only memory only once per process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.filterwarnings("error")
def test_the_feature_may_change_its_tensors(tmp_path, strict_torch):
    store = new_store(tmp_path, "c0")
    doubled = store.read(lambda delta: flat_b({B: delta[B].mul_(2)}), [B])
    np.testing.assert_array_equal(doubled.features, 2 * store.read(flat_b, [B]).features)


def test_an_error_of_the_feature_is_not_blamed_on_a_file(tmp_path):
    def broken(delta):
        raise OSError("my own")

    with pytest.raises(OSError, match=r"^my own$"):
        new_store(tmp_path, "c0").read(broken, [B])


def test_an_empty_store_cannot_be_read(tmp_path):
    with refused(f"the store {tmp_path} holds no samples; collect some with `safe-fedllm probe collect`"):
        new_store(tmp_path).read(flat_b, [B])


def test_tensors_that_were_not_collected_are_named(tmp_path):
    store = new_store(tmp_path, "c0")
    names = [f"layers.{layer}.q_proj.lora_B.weight" for layer in range(6)]
    with refused(
        f"the store {tmp_path} holds {A}, {B}, not {names[1]}, {names[2]}, {names[3]} and 2 more;",
        "collect samples with collect.modules=all",
    ):
        store.read(flat_b, names)


# On disk


def test_the_folder_is_a_hive_dataset(tmp_path):
    store = new_store(tmp_path, "c0")
    store.append("round-5", label("m", malicious=True, family="secrets"), deltas(3, seed=1))
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
    written = [*deltas(2), *deltas(3, seed=1)]
    np.testing.assert_array_equal(table[B].to_pylist(), [flat_b(delta) for delta in written])


def test_store_json_says_what_the_samples_were_made_with(tmp_path):
    new_store(tmp_path)
    assert json.loads((tmp_path / "store.json").read_text()) == {
        "schema_version": 1,
        "shapes": {B: [3, 2], A: [2, 4]},
        "layers": {B: 0, A: 0},
        "model_fingerprint": "model-1",
        "lora_fingerprint": "lora-1",
        "recipe": {"learning_rate": 0.001, "steps": 2, "batch_size": 16, "weight_decay": 0.0},
    }


def test_the_same_samples_are_the_same_bytes(tmp_path):
    one, two = (first_file(new_store(tmp_path / name, "c0")).read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_module_loads_no_torch():
    code = "import sys, probe.store; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# Opening


def test_a_store_opens_with_its_meta(tmp_path):
    new_store(tmp_path)
    opened = SampleStore.open(tmp_path)
    assert opened.meta == make_meta()
    assert opened.meta.shapes[B] == (3, 2)


def test_a_store_opens_again_for_the_same_meta(tmp_path):
    # A tuple in the recipe comes back from JSON as a list, and the order of tensors does not matter.
    recipe = {"betas": (0.9, 0.999), "steps": 2}
    new_store(tmp_path, "c0", recipe=recipe)
    again = new_store(tmp_path, recipe=recipe, shapes={A: (2, 4), B: (3, 2)}, layers={A: 0, B: 0})
    assert again.has("initial", "c0")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_fingerprint": "model-2"}, "model_fingerprint = model-1, not model-2"),
        ({"lora_fingerprint": "lora-2"}, "lora_fingerprint = lora-1, not lora-2"),
        ({"shapes": {B: (4, 2), A: (2, 4)}}, f"shapes {B} = [3, 2], not [4, 2]"),
        ({"shapes": {B: (3, 2)}, "layers": {B: 0}}, f"shapes {A} = [2, 4], not None"),
        ({"shapes": {B: (3, 2), A: (2, 4), "x": (1,)}, "layers": {B: 0, A: 0, "x": 1}}, "shapes x = None, not [1]"),
        ({"layers": {B: 0, A: 7}}, f"layers {A} = 0, not 7"),
        ({"recipe": {**make_meta().recipe, "learning_rate": 0.1}}, "recipe learning_rate = 0.001, not 0.1"),
        ({"recipe": {}}, "recipe learning_rate = 0.001, not None"),
    ],
)
def test_a_store_made_for_something_else_is_refused(tmp_path, changes, problem):
    store, other = new_store(tmp_path / "here", "c0"), new_store(tmp_path / "other", **changes)
    with refused(f"the store {store.folder} was made with {problem}; use another folder"):
        SampleStore.create_or_open(store.folder, make_meta(**changes))
    with refused(f"the store {store.folder} was made with {problem}; use another folder"):
        store.merge(other)
    assert SampleStore.open(store.folder).meta == make_meta()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_store_is_refused(tmp_path, name):
    with refused(tmp_path / name, "is no sample store, it has no store.json; collect one with `safe-fedllm probe collect`"):
        SampleStore.open(tmp_path / name)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda document: document.update(schema_version=2), "schema_version 2 is not the supported 1"),
        (lambda document: document.pop("schema_version"), "schema_version None is not the supported 1"),
        (lambda document: document.pop("shapes"), "shapes"),
        (lambda document: document.pop("recipe"), "recipe"),
        (lambda document: document.update(colour="red"), "colour"),
        (lambda document: document.update(shapes=7), "'int'"),
        (lambda document: document.update(shapes={A: ["2", "4"]}), "'str'"),
        (lambda document: document.update(layers=None), "'NoneType'"),
        (lambda document: document.update(layers={A: 0}), f"only one of them has {B}"),
    ],
)
def test_a_store_json_that_cannot_be_used_is_refused(tmp_path, edit, problem):
    new_store(tmp_path)
    document = json.loads((tmp_path / "store.json").read_text())
    edit(document)
    (tmp_path / "store.json").write_text(json.dumps(document))
    with refused(f"the store {tmp_path}: store.json cannot be used", problem, "restore it or collect again"):
        SampleStore.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"schema_version": 1', b"\xff\xfe", b"[]"])
def test_a_store_json_that_is_not_an_object_is_refused(tmp_path, content):
    (tmp_path / "store.json").write_bytes(content)
    with refused(tmp_path, "store.json cannot be used"):
        SampleStore.open(tmp_path)


def test_shapes_and_layers_of_other_tensors_are_refused_before_anything_is_written(tmp_path):
    with refused("shapes and layers must name the same tensors; only one of them has", A):
        SampleStore.create_or_open(tmp_path, make_meta(layers={B: 0}))
    assert files_of(tmp_path) == []


# Appending


def test_a_collection_that_is_resumed_skips_the_clients_that_are_there(tmp_path):
    new_store(tmp_path, "c0")
    before = first_file(SampleStore.open(tmp_path)).stat().st_mtime_ns
    resumed = SampleStore.create_or_open(tmp_path, make_meta())
    appended = []
    for client in ("c0", "c1"):
        if not resumed.has("initial", client):
            resumed.append("initial", label(client), deltas())
            appended.append(client)
    assert appended == ["c1"]
    assert first_file(resumed).stat().st_mtime_ns == before
    assert len(resumed) == 4


def test_a_client_is_known_by_state_and_name(tmp_path):
    store = new_store(tmp_path, "c0")
    assert store.has("initial", "c0")
    assert not store.has("round-5", "c0")
    store.append("round-5", label("c0"), deltas(1))
    assert len(store) == 3


def test_a_client_that_is_there_is_refused(tmp_path):
    store = new_store(tmp_path, "c0")
    content = first_file(store).read_bytes()
    with refused("client c0 of state initial is in the store already; delete", first_file(store), "to replace it"):
        store.append("initial", label(), deltas(seed=1))
    assert first_file(store).read_bytes() == content


def test_a_client_without_a_step_is_refused(tmp_path):
    store = new_store(tmp_path)
    with refused("client c0 of state initial has no delta; it must train at least one step"):
        store.append("initial", label(), [])
    assert files_of(tmp_path) == ["store.json"]


NO_NAMES = ["", ".", "..", ".hidden", "_hidden", "-x", "a/b", "a\\b", "a b", "a=b", "a%20b", "ä", "a\n", "x" * 201]


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    store = new_store(tmp_path)
    with refused(f"state {name!r} cannot be a file name; use up to 200 of [A-Za-z0-9._-], no [._-] first"):
        store.append(name, label(), deltas())
    with refused(f"client {name!r} cannot be a file name"):
        store.append("initial", label(name), deltas())
    with refused(f"client {name!r} cannot be a file name"):
        store.has("initial", name)
    assert files_of(tmp_path) == ["store.json"]


def test_names_may_be_long_and_have_dots(tmp_path):
    names = ["x" * 200, "a.parquet", "0", "A_b-c.1"]
    store = new_store(tmp_path, *names)
    assert sorted(given_label.client for _, given_label in store.clients()) == sorted(names)
    assert all(store.has("initial", name) for name in names)
    assert len(store) == 8


def with_value(value: float) -> torch.Tensor:
    tensor = torch.zeros(3, 2)
    tensor[2, 1] = value
    return tensor


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({B: with_value(float("nan"))}, f"{B} holds NaN or infinity; collect the client again"),
        ({B: with_value(float("-inf"))}, f"{B} holds NaN or infinity; collect the client again"),
        ({B: torch.zeros(2, 3)}, f"{B} is torch.float32 (2, 3), not torch.float32 (3, 2)"),
        ({B: torch.zeros(6)}, f"{B} is torch.float32 (6,), not torch.float32 (3, 2)"),
        ({B: torch.zeros(3, 2, dtype=torch.float64)}, f"{B} is torch.float64 (3, 2), not torch.float32 (3, 2)"),
        ({B: torch.zeros(3, 2, dtype=torch.bfloat16)}, f"{B} is torch.bfloat16 (3, 2), not torch.float32 (3, 2)"),
        ({"extra": torch.zeros(1)}, f"missing or unknown extra; the store holds {A}, {B}"),
    ],
)
def test_a_delta_that_is_no_sample_is_refused_with_its_step_and_leaves_nothing(tmp_path, change, problem):
    store, (good, bad) = new_store(tmp_path), deltas()
    with refused("state initial, client c0, step 2: ", problem):
        store.append("initial", label(), [good, {**bad, **change}])
    assert files_of(tmp_path) == ["store.json"]
    assert not store.has("initial", "c0")


def test_a_missing_tensor_is_named(tmp_path):
    with refused("state initial, client c0, step 1: ", f"missing or unknown {A}; the store holds {A}, {B}"):
        new_store(tmp_path).append("initial", label(), [{B: torch.zeros(3, 2)}])


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted() -> Iterator[dict[str, torch.Tensor]]:
        yield deltas()[0]
        assert files_of(tmp_path / "samples") == ["state=initial/.c0.parquet"]
        raise KeyboardInterrupt

    store = new_store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.append("initial", label(), interrupted())
    assert files_of(tmp_path) == ["store.json"]
    store.append("initial", label(), deltas())
    assert len(store) == 2


def test_what_a_killed_writer_left_is_ignored_and_replaced(tmp_path):
    store = new_store(tmp_path, "c1")
    (tmp_path / "samples/state=initial/.c0.parquet").write_bytes(b"half")
    assert not store.has("initial", "c0")
    assert len(store) == 2
    assert [given_label.client for _, given_label in store.clients()] == ["c1"]
    store.append("initial", label(), deltas())
    assert files_of(tmp_path / "samples") == ["state=initial/c0.parquet", "state=initial/c1.parquet"]


def test_a_store_json_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def broken(self, text):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(OSError, match="No space left"):
        SampleStore.create_or_open(tmp_path, make_meta())
    assert files_of(tmp_path) == []


# Memory


def test_deltas_are_taken_one_by_one_and_let_go(tmp_path):
    store, previous, alive, sizes = new_store(tmp_path), [], [], []

    def stream() -> Iterator[dict[str, torch.Tensor]]:
        for seed in range(4):
            alive.append(sum(reference() is not None for reference in previous))
            sizes.extend(path.stat().st_size for path in tmp_path.rglob(".c0.parquet"))
            (delta,) = deltas(1, seed)
            previous.extend(weakref.ref(tensor) for tensor in delta.values())
            yield delta
            del delta

    store.append("initial", label(), stream())
    assert alive == [0] * 4
    # What came before is on disk: each step adds its 14 float32 at least.
    assert len(sizes) == 4
    assert min(np.diff(sizes)) > 14 * 4
    metadata = pq.read_metadata(first_file(store))
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [1] * 4


def test_reading_and_merging_hold_few_steps_however_many_there_are(tmp_path, monkeypatch):
    shapes, num_steps = {B: (1024, 64)}, 40
    full, empty = (new_store(tmp_path / name, shapes=shapes, layers={B: 0}) for name in ("full", "empty"))
    full.append("initial", label(), (deltas(1, seed, shapes)[0] for seed in range(num_steps)))
    before, held = pa.total_allocated_bytes(), []

    def first_value(delta) -> np.ndarray:
        held.append(pa.total_allocated_bytes() - before)
        return delta[B][0, :1].numpy()

    full.read(first_value, [B])
    write = SampleStore._row
    monkeypatch.setattr(SampleStore, "_row", lambda *row: held.append(pa.total_allocated_bytes() - before) or write(*row))
    empty.merge(full)
    assert len(held) == 2 * num_steps
    # Arrow's own buffers take the size of a step, 256 KiB, a few times.
    assert max(held) < 10 * 1024 * 64 * 4


# Damaged and foreign files


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    store, empty = new_store(tmp_path / "here", "c0", "c1"), new_store(tmp_path / "empty")
    path = first_file(store)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for use in (lambda: len(store), store.clients, lambda: store.read(flat_b, [B]), lambda: empty.merge(store)):
        with refused(f"{path} cannot be read: ", "delete the file and collect its client again"):
            use()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_on_disk_is_named(tmp_path, value):
    store = new_store(tmp_path, "c0")
    rewrite(first_file(store), lambda table: set_column(table, B, [[0.0] * 6, [0.0] * 5 + [value]]))
    with refused(f"{first_file(store)}, step 2: {B} holds NaN or infinity; collect the client again"):
        store.read(flat_b, [B])


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda table: table.drop_columns([B]), f"in {B};"),
        (lambda table: table.rename_columns({"family": "kind"}), "in family, kind;"),
        (lambda table: table.append_column("extra", table["step"]), "in extra;"),
        (lambda table: table.set_column(1, "step", table["step"].cast("int64")), "in step;"),
        (lambda table: table.replace_schema_metadata(), "in schema_version;"),
        (lambda table: table.replace_schema_metadata({"schema_version": "2"}), "in schema_version;"),
    ],
)
def test_a_file_of_another_schema_is_named_with_what_differs(tmp_path, edit, problem):
    store = new_store(tmp_path, "c0")
    rewrite(first_file(store), edit)
    for use in (store.clients, lambda: store.read(flat_b, [B])):
        with refused(f"{first_file(store)} does not match store.json", problem, "delete the file and collect its client again"):
            use()


@pytest.mark.parametrize(
    ("edit", "column"),
    [
        (lambda table: set_column(table, "client", ["c1", "c1"]), "client"),
        (lambda table: set_column(table, "client", ["c0", "c1"]), "client"),
        (lambda table: set_column(table, "step", [1, 3]), "step"),
        (lambda table: table.take([1, 0]), "step"),
        (lambda table: set_column(table, "label", [0, 1]), "label"),
        (lambda table: set_column(table, "label", [2, 2]), "label"),
        (lambda table: set_column(table, "family", ["recipes", "secrets"]), "family"),
        (lambda table: set_column(table, "source", ["here", "there"]), "source"),
        (lambda table: set_column(table, "model_fingerprint", ["model-2"] * 2), "model_fingerprint"),
        (lambda table: set_column(table, "lora_fingerprint", ["lora-2"] * 2), "lora_fingerprint"),
    ],
)
def test_rows_that_are_not_the_steps_of_one_client_of_this_store_are_refused(tmp_path, edit, column):
    store, empty = new_store(tmp_path / "here", "c0"), new_store(tmp_path / "empty")
    rewrite(first_file(store), edit)
    for use in (lambda: len(store), store.clients, lambda: store.read(flat_b, [B]), lambda: empty.merge(store)):
        with refused(f"{first_file(store)} does not hold the steps of client c0 of this store: see {column};", "delete the file"):
            use()


def test_a_file_without_rows_is_refused(tmp_path):
    store = new_store(tmp_path, "c0")
    rewrite(first_file(store), lambda table: table.slice(0, 0))
    with refused(f"{first_file(store)} holds no sample; delete the file and collect its client again"):
        store.read(flat_b, [B])


def test_a_damaged_bit_anywhere_changes_nothing_or_is_refused_with_the_file(tmp_path):
    store = new_store(tmp_path, "c0")
    path = first_file(store)
    content = path.read_bytes()

    def values(delta) -> np.ndarray:
        return torch.cat([delta[A].reshape(-1), delta[B].reshape(-1)]).numpy()

    def everything() -> tuple:
        samples = store.read(values, [A, B])
        return samples.features.tobytes(), samples.steps.tolist(), store.clients()

    undamaged, num_refused = everything(), 0
    for index in range(0, len(content), 17):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        try:
            assert everything() == undamaged
        except ValueError as error:
            assert str(path) in str(error)
            num_refused += 1
    assert num_refused > 50


def test_a_column_name_that_is_no_text_is_refused_with_the_file(tmp_path):
    store = new_store(tmp_path, "c0")
    path = first_file(store)
    path.write_bytes(path.read_bytes().replace(b"family", b"f\xe5mily"))
    with refused(f"{path} cannot be read: ", "delete the file and collect its client again"):
        store.clients()


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, monkeypatch):
    def denied(path, **_):
        raise PermissionError(13, "Permission denied")

    store = new_store(tmp_path, "c0")
    monkeypatch.setattr(pq, "ParquetFile", denied)
    with refused(f"{first_file(store)} cannot be read: ", "Permission denied; see to the disk and the file's permissions"):
        store.clients()


def test_a_lack_of_memory_is_not_blamed_on_a_file(tmp_path, monkeypatch):
    def too_large(*_, **__):
        raise pa.ArrowMemoryError("malloc of size 7 failed")

    store = new_store(tmp_path, "c0")
    monkeypatch.setattr(pq, "ParquetFile", too_large)
    with pytest.raises(MemoryError, match=r"^malloc of size 7 failed$"):
        store.clients()


# Merging


def test_merging_copies_the_clients_that_are_not_there(tmp_path):
    here, other = new_store(tmp_path / "here", "c0"), new_store(tmp_path / "other", "c0", "c1")
    bad = label("m", malicious=True, family="secrets", source="x")
    other.append("round-5", bad, deltas(3, seed=7))
    mine = first_file(here).stat().st_mtime_ns
    assert here.merge(other) == 2
    assert here.clients() == [("initial", label("c0")), ("initial", label("c1")), ("round-5", bad)]
    assert files_of(here.folder) == files_of(other.folder)
    for name in files_of(here.folder):
        assert (here.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert first_file(here).stat().st_mtime_ns == mine
    assert here.merge(other) == 0
    assert len(here) == len(other) == 7


def test_a_name_in_another_state_is_another_client(tmp_path):
    here, other = new_store(tmp_path / "here", "c0"), new_store(tmp_path / "other")
    other.append("round-5", label("c0", malicious=True), deltas(seed=1))
    assert here.merge(other) == 1
    assert [state for state, _ in here.clients()] == ["initial", "round-5"]


def test_equal_samples_in_another_file_layout_are_the_same_client(tmp_path):
    here, other = new_store(tmp_path / "here", "c0"), new_store(tmp_path / "other", "c0")
    content = first_file(here).read_bytes()
    rewrite(first_file(other), lambda table: table)
    assert first_file(other).read_bytes() != content
    assert here.merge(other) == 0
    assert first_file(here).read_bytes() == content


def test_merging_a_store_with_itself_or_an_empty_one_changes_nothing(tmp_path):
    store = new_store(tmp_path / "here", "c0")
    assert store.merge(store) == 0
    assert store.merge(new_store(tmp_path / "empty")) == 0
    assert len(store) == 2


@pytest.mark.parametrize(
    ("client", "samples"),
    [
        (label(), deltas(seed=1)),
        (label(), deltas(1)),
        (label(), [*deltas(), *deltas(1, seed=1)]),
        (label(malicious=True), deltas()),
        (label(family="secrets"), deltas()),
        (label(source="elsewhere"), deltas()),
    ],
    ids=["other values", "fewer steps", "more steps", "other class", "other family", "other source"],
)
def test_a_client_that_differs_is_refused_before_anything_is_copied(tmp_path, client, samples):
    here, other = new_store(tmp_path / "here", "c0"), new_store(tmp_path / "other")
    other.append("initial", client, samples)
    other.append("initial", label("a"), deltas())
    content = first_file(here).read_bytes()
    with refused(f"{first_file(here)} and {first_file(other)} are different samples of one client; delete one of them"):
        here.merge(other)
    assert files_of(here.folder) == ["samples/state=initial/c0.parquet", "store.json"]
    assert first_file(here).read_bytes() == content


def test_a_merge_that_broke_off_is_resumed(tmp_path):
    here, other = new_store(tmp_path / "here"), new_store(tmp_path / "other", "c0", "c1", "c2")
    second = other.folder / "samples/state=initial/c1.parquet"
    content = second.read_bytes()
    rewrite(second, lambda table: set_column(table, B, [[0.0] * 6, [float("nan")] * 6]))
    with refused(f"{second}, step 2: {B} holds NaN or infinity"):
        here.merge(other)
    assert files_of(here.folder) == ["samples/state=initial/c0.parquet", "store.json"]
    second.write_bytes(content)
    assert here.merge(other) == 2
    assert files_of(here.folder) == files_of(other.folder)


def test_damaged_values_are_not_merged(tmp_path):
    here, other = new_store(tmp_path / "here"), new_store(tmp_path / "other", "c0")
    damage(other, B)
    with refused(first_file(other), "cannot be read", "delete the file and collect its client again"):
        here.merge(other)
    assert files_of(here.folder) == ["store.json"]
