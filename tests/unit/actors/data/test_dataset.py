"""A client's batches: drawn without replacement, seeded, and refused where there is nothing to learn from."""

import json
from pathlib import Path

import numpy as np
from pytest import mark, raises

from actors.data.dataset import ClientDataset, load_dataset
from actors.data.prompting import IGNORED, Encoded, encode, user_message
from actors.errors import DataError


def make_dataset(num_examples: int, unsupervised: tuple[int, ...] = ()) -> ClientDataset:
    """Example i has the ids (i, 99), so that its row can be told from a batch; 99 is supervised where not excepted."""
    examples = tuple(Encoded((i, 99), (IGNORED, IGNORED if i in unsupervised else 99)) for i in range(num_examples))
    return ClientDataset(examples, tuple(f"data.jsonl row {i}" for i in range(num_examples)))


def draw_rows(dataset: ClientDataset, num_batches: int, batch_size: int, seed: int = 0) -> list[list[int]]:
    batches = dataset.batches(np.random.default_rng(seed), num_batches, batch_size, pad_id=0)
    return [batch.input_ids[:, 0].tolist() for batch in batches]


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@mark.parametrize(("num_batches", "batch_size"), [(1, 1), (3, 4), (10, 16), (1, 50)])
def test_batches_have_the_sizes_asked_for(num_batches, batch_size):
    assert list(map(len, draw_rows(make_dataset(20), num_batches, batch_size))) == [batch_size] * num_batches


def test_no_example_comes_twice_before_all_came_once():
    drawn = draw_rows(make_dataset(12), 3, 3)
    assert len({row for batch in drawn for row in batch}) == 9


def test_batches_that_need_all_examples_use_each_once():
    drawn = draw_rows(make_dataset(12), 3, 4)
    assert sorted(row for batch in drawn for row in batch) == list(range(12))


def test_more_than_there_is_starts_from_a_fresh_permutation():
    rows = [row for batch in draw_rows(make_dataset(10), 5, 6) for row in batch]
    epochs = [rows[:10], rows[10:20], rows[20:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_larger_than_the_data_repeats_it_evenly():
    (rows,) = draw_rows(make_dataset(3), 1, 8)
    assert sorted(np.bincount(rows).tolist()) == [2, 3, 3]


def test_the_order_follows_the_seed_alone():
    dataset = make_dataset(50)
    assert draw_rows(dataset, 3, 8, seed=5) == draw_rows(dataset, 3, 8, seed=5)
    assert len({str(draw_rows(dataset, 3, 8, seed=seed)) for seed in range(5)}) == 5
    assert draw_rows(dataset, 3, 8) != [list(range(8)), list(range(8, 16)), list(range(16, 24))]


def test_a_batch_without_a_supervised_token_names_file_and_rows():
    with raises(DataError, match=r"no supervised token: the responses of data\.jsonl row \d, .*\(and 2 more\)") as caught:
        make_dataset(5, unsupervised=(0, 1, 2, 3, 4)).batches(np.random.default_rng(0), 1, 5, pad_id=0)
    assert "training.max_length" in str(caught.value)


def test_the_row_that_is_named_is_the_one_that_lacks_a_response():
    dataset = make_dataset(6, unsupervised=(4,))
    with raises(DataError, match=r"the responses of data\.jsonl row 4 \(and 0 more\)"):
        dataset.batches(np.random.default_rng(0), 6, 1, pad_id=0)


def test_a_batch_with_one_supervised_token_is_enough():
    dataset = make_dataset(4, unsupervised=(0, 1, 2))
    (batch,) = dataset.batches(np.random.default_rng(0), 1, 4, pad_id=0)
    assert int((batch.labels != IGNORED).sum()) == 1


def test_files_are_read_in_the_given_order_with_their_origins(make_tokenizer, tmp_path):
    first = write(tmp_path / "b.jsonl", {"instruction": "Say a.", "response": "a"}, {"instruction": "Say b.", "response": "b"})
    second = write(tmp_path / "a.jsonl", {"instruction": "Say", "input": "c", "response": "c"})
    tokenizer = make_tokenizer()
    dataset = load_dataset([first, second], tokenizer, max_length=64)
    assert dataset.origins == (f"{first} row 0", f"{first} row 1", f"{second} row 0")
    assert dataset.examples == tuple(
        encode(tokenizer, [user_message(*prompt), {"role": "assistant", "content": answer}], 64)
        for prompt, answer in ((("Say a.",), "a"), (("Say b.",), "b"), (("Say", "c"), "c"))
    )


def test_examples_are_cut_to_max_length(make_tokenizer, tmp_path):
    path = write(tmp_path / "a.jsonl", {"instruction": "Say hello to Ada.", "response": "Hello Ada, good day to you."})
    (example,) = load_dataset([path], make_tokenizer(), max_length=7).examples
    assert len(example.ids) == len(example.labels) == 7


def test_responses_that_were_cut_off_are_named_by_file_and_row(make_tokenizer, tmp_path):
    path = write(tmp_path / "a.jsonl", {"instruction": "Say hello to Ada.", "response": "Hello."})
    dataset = load_dataset([path], make_tokenizer(), max_length=2)
    with raises(DataError, match="row 0") as caught:
        dataset.batches(np.random.default_rng(0), 1, 1, pad_id=0)
    assert path in str(caught.value)


def test_a_bad_row_of_a_later_file_is_named(make_tokenizer, tmp_path):
    good = {"instruction": "Say a.", "response": "a"}
    first, second = write(tmp_path / "a.jsonl", good), write(tmp_path / "b.jsonl", good, {**good, "response": ""})
    with raises(DataError, match="row 1: response should be non-empty text") as caught:
        load_dataset([first, second], make_tokenizer(), max_length=64)
    assert second in str(caught.value) and first not in str(caught.value)


def test_a_template_that_cannot_be_masked_is_named_by_file_and_row(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    path = write(tmp_path / "a.jsonl", {"messages": turns})
    with raises(DataError, match="row 0: the chat template rewrites earlier turns at message 1") as caught:
        load_dataset([path], tokenizer, max_length=64)
    assert path in str(caught.value)
