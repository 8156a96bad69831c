"""probe/client_files.py: deltas come back to the bit, one step in memory at a time; a damaged or foreign file is named."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from probe.client_files import ClientFiles
from probe.store import SampleStore
from tests.unit.probe.builders import (
    A,
    B,
    files_of,
    first_file,
    flat_b,
    make_deltas,
    make_label,
    make_store,
    make_store_meta,
    refused,
)

COLLECT_AGAIN = "delete the file and collect its client again"


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


# Round trip


@pytest.mark.parametrize(
    "shapes",
    [
        {B: (3, 2), A: (2, 4)},
        {"scalar.lora_A.weight": (), "vector.lora_B.weight": (5,)},
        {"d.lora_B.weight": (2, 3, 4), "a.lora_A.weight": (1, 1)},
    ],
)
def test_deltas_come_back_to_the_bit_whatever_their_shapes(tmp_path, shapes):
    # Signs of zero, denormals and the largest float survive only a copy without arithmetic.
    odd = torch.tensor([-0.0, 1e-45, -1e-40, torch.finfo(torch.float32).max, 1 / 3, 0.0])
    written = [{name: odd.repeat(4)[: int(np.prod(shape))].reshape(shape) for name, shape in shapes.items()}]
    written += make_deltas(2, shapes=shapes)
    store = make_store(tmp_path, shapes=shapes, layers=dict.fromkeys(shapes, 0))
    store.append("initial", make_label(), written)
    seen = []
    SampleStore.open(tmp_path).read(lambda delta: seen.append(delta) or np.zeros(1, np.float32), list(shapes))
    assert len(seen) == 3
    for sample, original in zip(seen, written, strict=True):
        assert {name: tuple(tensor.shape) for name, tensor in sample.items()} == shapes
        assert all(sample[name].numpy().tobytes() == original[name].numpy().tobytes() for name in shapes)


def test_a_tensor_is_kept_row_by_row_whatever_its_memory_layout_and_gradient(tmp_path):
    transposed = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    make_store(tmp_path).append("initial", make_label(), [{B: transposed, A: torch.zeros(2, 4)}])
    assert SampleStore.open(tmp_path).read(flat_b, [B]).features.tolist() == [[0, 3, 1, 4, 2, 5]]


def test_the_same_samples_are_the_same_bytes(tmp_path):
    one, two = (first_file(make_store(tmp_path / name, "c0")).read_bytes() for name in ("one", "two"))
    assert one == two


# Writing


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
        ({B: torch.zeros(3, 2, dtype=torch.bfloat16)}, f"{B} is torch.bfloat16 (3, 2), not torch.float32 (3, 2)"),
        ({"extra": torch.zeros(1)}, f"missing or unknown extra; the store holds {A}, {B}"),
        ({A: None}, f"missing or unknown {A}; the store holds {A}, {B}"),
    ],
)
def test_a_delta_that_is_no_sample_is_refused_with_its_step_and_leaves_nothing(tmp_path, change, problem):
    store, (good, bad) = make_store(tmp_path), make_deltas()
    bad = {name: tensor for name, tensor in {**bad, **change}.items() if tensor is not None}
    with refused("state initial, client c0, step 2: ", problem):
        store.append("initial", make_label(), [good, bad])
    assert files_of(tmp_path) == ["store.json"]


def test_a_client_without_a_step_is_refused(tmp_path):
    with refused("state initial, client c0 has no delta; it must train at least one step"):
        make_store(tmp_path).append("initial", make_label(), [])
    assert files_of(tmp_path) == ["store.json"]


# Memory


def test_deltas_are_taken_one_by_one_and_let_go(tmp_path):
    store, previous, alive, sizes = make_store(tmp_path), [], [], []

    def stream() -> Iterator[dict[str, torch.Tensor]]:
        for seed in range(4):
            alive.append(sum(reference() is not None for reference in previous))
            sizes.extend(path.stat().st_size for path in tmp_path.rglob(".c0.parquet"))
            (delta,) = make_deltas(1, seed)
            previous.extend(weakref.ref(tensor) for tensor in delta.values())
            yield delta
            del delta

    store.append("initial", make_label(), stream())
    assert alive == [0] * 4
    # What came before is on disk: each step adds its 14 float32 at least.
    assert len(sizes) == 4
    assert min(np.diff(sizes)) > 14 * 4
    metadata = pq.read_metadata(first_file(store))
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [1] * 4


def test_reading_and_merging_hold_few_steps_however_many_there_are(tmp_path, monkeypatch):
    shapes, num_steps = {B: (1024, 64)}, 40
    full, empty = (make_store(tmp_path / name, shapes=shapes, layers={B: 0}) for name in ("full", "empty"))
    full.append("initial", make_label(), (make_deltas(1, seed, shapes)[0] for seed in range(num_steps)))
    before, held = pa.total_allocated_bytes(), []

    def first_value(delta) -> np.ndarray:
        held.append(pa.total_allocated_bytes() - before)
        return delta[B][0, :1].numpy()

    full.read(first_value, [B])
    write = ClientFiles._row
    monkeypatch.setattr(ClientFiles, "_row", lambda *row: held.append(pa.total_allocated_bytes() - before) or write(*row))
    empty.merge(full)
    assert len(held) == 2 * num_steps
    # Arrow's own buffers take the size of a step, 256 KiB, a few times.
    assert max(held) < 10 * 1024 * 64 * 4


def test_only_the_columns_of_the_names_are_read(tmp_path):
    store = make_store(tmp_path, "c0")
    damage(store, A)
    seen = []
    samples = store.read(lambda delta: seen.append(set(delta)) or flat_b(delta), [B])
    assert seen == [{B}, {B}]
    assert samples.features.tobytes() == np.stack([flat_b(delta) for delta in make_deltas()]).tobytes()
    with refused(first_file(store), "cannot be read", COLLECT_AGAIN):
        store.read(flat_b, [A, B])
    damage(store, B)
    assert len(store) == 2
    assert store.clients() == [("initial", make_label())]


# Damaged and foreign files


def uses(folder: Path, store: SampleStore) -> list[Callable[[], object]]:
    """Everything that opens a client's file."""
    empty = make_store(folder / "empty")
    return [lambda: len(store), store.clients, lambda: store.read(flat_b, [B]), lambda: empty.merge(store)]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    store = make_store(tmp_path / "here", "c0", "c1")
    path = first_file(store)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for use in uses(tmp_path, store):
        with refused(f"{path} cannot be read: ", COLLECT_AGAIN):
            use()


def test_a_sample_that_is_not_finite_on_disk_is_named(tmp_path):
    store = make_store(tmp_path, "c0")
    rewrite(first_file(store), lambda table: set_column(table, B, [[0.0] * 6, [0.0] * 5 + [float("nan")]]))
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
    store = make_store(tmp_path, "c0")
    rewrite(first_file(store), edit)
    for use in (store.clients, lambda: store.read(flat_b, [B])):
        with refused(f"{first_file(store)} does not match store.json", problem, COLLECT_AGAIN):
            use()


@pytest.mark.parametrize(
    ("edit", "column"),
    [
        (lambda table: set_column(table, "client", ["c1", "c1"]), "client"),
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
    store = make_store(tmp_path / "here", "c0")
    rewrite(first_file(store), edit)
    for use in uses(tmp_path, store):
        with refused(f"{first_file(store)} does not hold the steps of client c0 of this store: see {column};", "delete the file"):
            use()


def test_a_file_without_rows_is_refused(tmp_path):
    store = make_store(tmp_path, "c0")
    rewrite(first_file(store), lambda table: table.slice(0, 0))
    with refused(f"{first_file(store)} holds no sample; {COLLECT_AGAIN}"):
        store.read(flat_b, [B])


def test_a_damaged_bit_anywhere_changes_nothing_or_is_refused_with_the_file(tmp_path):
    store = make_store(tmp_path, "c0")
    path = first_file(store)
    content = path.read_bytes()

    def everything() -> tuple:
        samples = store.read(lambda delta: torch.cat([delta[A].reshape(-1), delta[B].reshape(-1)]).numpy(), [A, B])
        return samples.features.tobytes(), samples.steps.tolist(), store.clients()

    undamaged, num_refused = everything(), 0
    for index in range(0, len(content), 37):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        try:
            assert everything() == undamaged
        except ValueError as error:
            assert str(path) in str(error)
            num_refused += 1
    assert num_refused > 30


def test_a_column_name_that_is_no_text_is_refused_with_the_file(tmp_path):
    store = make_store(tmp_path, "c0")
    path = first_file(store)
    path.write_bytes(path.read_bytes().replace(b"family", b"f\xe5mily"))
    with refused(f"{path} cannot be read: ", COLLECT_AGAIN):
        store.clients()


def test_a_failing_system_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    def failing(error: Exception):
        def open_file(*_, **__):
            raise error

        monkeypatch.setattr(pq, "ParquetFile", open_file)

    store = make_store(tmp_path, "c0")
    failing(PermissionError(13, "Permission denied"))
    with refused(f"{first_file(store)} cannot be read: ", "Permission denied; check the disk and the file's permissions"):
        store.clients()
    failing(pa.ArrowMemoryError("malloc of size 7 failed"))
    with pytest.raises(MemoryError, match=r"^malloc of size 7 failed$"):
        store.clients()


# Comparing


def test_equal_samples_in_another_file_layout_are_the_same_client(tmp_path):
    here, other = make_store(tmp_path / "here", "c0"), make_store(tmp_path / "other", "c0")
    content = first_file(here).read_bytes()
    rewrite(first_file(other), lambda table: table)
    assert first_file(other).read_bytes() != content
    assert here.merge(other) == 0
    assert first_file(here).read_bytes() == content


@pytest.mark.parametrize(
    ("client", "samples"),
    [
        (make_label(), make_deltas(seed=1)),
        (make_label(), make_deltas(1)),
        (make_label(), [*make_deltas(), *make_deltas(1, seed=1)]),
        (make_label(malicious=True), make_deltas()),
        (make_label(family="secrets"), make_deltas()),
        (make_label(source="elsewhere"), make_deltas()),
    ],
    ids=["other values", "fewer steps", "more steps", "other class", "other family", "other source"],
)
def test_a_client_that_differs_is_refused_before_anything_is_copied(tmp_path, client, samples):
    here, other = make_store(tmp_path / "here", "c0"), make_store(tmp_path / "other")
    other.append("initial", client, samples)
    other.append("initial", make_label("a"), make_deltas())
    content = first_file(here).read_bytes()
    with refused(f"{first_file(here)} and {first_file(other)} are different samples of one client; delete one of them"):
        here.merge(other)
    assert files_of(here.folder) == ["samples/state=initial/c0.parquet", "store.json"]
    assert first_file(here).read_bytes() == content


def test_a_merge_that_broke_off_at_damaged_values_is_resumed(tmp_path):
    here, other = make_store(tmp_path / "here"), make_store(tmp_path / "other", "c0", "c1", "c2")
    second = other.folder / "samples/state=initial/c1.parquet"
    content = second.read_bytes()
    rewrite(second, lambda table: set_column(table, B, [[0.0] * 6, [float("nan")] * 6]))
    with refused(f"{second}, step 2: {B} holds NaN or infinity"):
        here.merge(other)
    assert files_of(here.folder) == ["samples/state=initial/c0.parquet", "store.json"]
    second.write_bytes(content)
    assert here.merge(other) == 2
    assert files_of(here.folder) == files_of(other.folder)
    assert here.meta == make_store_meta()
