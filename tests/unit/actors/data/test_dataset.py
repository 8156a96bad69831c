"""A client's batches: kept as they were encoded, drawn without replacement, and seeded."""

import numpy as np
import pyarrow as pa
from pytest import mark, raises

from actors.data.dataset import Dataset, load_dataset, num_examples
from actors.data.encoding import IGNORED, Encoded
from actors.errors import DataError


def make_dataset(num_examples: int) -> Dataset:
    """Example i has the ids (i, 99), so that its row can be told from a batch."""
    return Dataset.of(Encoded((i, 99), (IGNORED, 99)) for i in range(num_examples))


def draw_rows(dataset: Dataset, num_batches: int, batch_size: int, seed: int = 0) -> list[list[int]]:
    batches = dataset.batches(np.random.default_rng(seed), num_batches, batch_size)
    return [batch.input_ids[:, 0].tolist() for batch in batches]


@mark.parametrize(
    ("num_examples", "num_batches", "batch_size", "num_epochs"), [(20, 1, 1, 1), (12, 3, 4, 1), (10, 5, 6, 3), (3, 1, 8, 3)]
)
def test_batches_use_every_example_once_before_any_comes_again(num_examples, num_batches, batch_size, num_epochs):
    drawn = draw_rows(make_dataset(num_examples), num_batches, batch_size)
    assert [len(batch) for batch in drawn] == [batch_size] * num_batches
    rows = [row for batch in drawn for row in batch]
    epochs = [rows[start : start + num_examples] for start in range(0, len(rows), num_examples)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert len(epochs) == num_epochs and len({str(epoch) for epoch in epochs}) == num_epochs


def test_the_order_follows_the_seed_alone():
    dataset = make_dataset(50)
    assert draw_rows(dataset, 3, 8, seed=5) == draw_rows(dataset, 3, 8, seed=5)
    assert len({str(draw_rows(dataset, 3, 8, seed=seed)) for seed in range(5)}) == 5
    assert draw_rows(dataset, 3, 8) != [list(range(8)), list(range(8, 16)), list(range(16, 24))]


def test_what_was_saved_is_loaded_file_after_file(tmp_path):
    first = [Encoded((1, 2, 3), (IGNORED, 2, 3)), Encoded((4,), (4,))]
    second = [Encoded((70_000, 5), (IGNORED, 5))]
    paths = []
    for name, examples in (("b", first), ("a", second)):
        paths.append(str(tmp_path / f"{name}.tokens"))
        Dataset.of(examples).save(tmp_path / f"{name}.tokens")
    loaded = load_dataset(paths)
    assert loaded.examples == first + second
    assert (len(loaded), loaded.starts.tolist()) == (3, [0, 3, 4, 6])
    assert load_dataset(paths[1:]).example(0) == second[0]


def test_a_file_is_mapped_and_not_copied(tmp_path):
    path, num_tokens = tmp_path / "a.tokens", 2_000_000
    Dataset(np.arange(num_tokens, dtype=np.int32), np.zeros(num_tokens, np.int32), np.arange(0, num_tokens + 1, 1000)).save(path)
    before = pa.total_allocated_bytes()
    loaded = [load_dataset([str(path)]) for _ in range(10)]
    assert pa.total_allocated_bytes() - before < 100_000
    assert [data.example(7).ids[0] for data in loaded] == [7000] * 10
    assert not loaded[0].ids.flags.writeable and not loaded[0].ids.flags.owndata


@mark.parametrize("damage", ["cut", "empty", "not a file of this kind", "offsets"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "a.tokens"
    make_dataset(5).save(path)
    content = path.read_bytes()
    if damage == "offsets":
        place = content.index(np.arange(0, 12, 2, dtype=np.int64).tobytes())
        content = content[: place + 16] + np.int64(10**6).tobytes() + content[place + 24 :]
    path.write_bytes({"cut": content[:-30], "empty": b"", "not a file of this kind": b"PAR1"}.get(damage, content))
    with raises(DataError, match=r"token file .*a\.tokens cannot be read"):
        load_dataset([str(path)])
    with raises(DataError, match="cannot be read"):
        num_examples(str(path))


def test_a_file_without_examples_says_so(tmp_path):
    Dataset.of([]).save(tmp_path / "a.tokens")
    assert num_examples(str(tmp_path / "a.tokens")) == len(load_dataset([str(tmp_path / "a.tokens")])) == 0
