"""A client's batches: drawn without replacement, seeded, and refused where there is nothing to learn from."""

import json
from pathlib import Path

import numpy as np
from pytest import mark, raises

from actors.data.dataset import ClientDataset, load_dataset, stamps
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


@mark.parametrize(
    ("unsupervised", "batch_size", "named"), [(range(6), 6, r"row \d, .*\(and 3 more\)"), ([4], 1, r"row 4 \(and 0 more\)")]
)
def test_a_batch_without_a_supervised_token_names_file_and_rows(unsupervised, batch_size, named):
    dataset = make_dataset(6, tuple(unsupervised))
    with raises(DataError, match=rf"no supervised token: the responses of data\.jsonl {named}.*training\.max_length"):
        dataset.batches(np.random.default_rng(0), 6 // batch_size, batch_size, pad_id=0)


def test_a_batch_with_one_supervised_token_is_enough():
    (batch,) = make_dataset(4, unsupervised=(0, 1, 2)).batches(np.random.default_rng(0), 1, 4, pad_id=0)
    assert int((batch.labels != IGNORED).sum()) == 1


def test_files_are_read_in_the_given_order_with_their_origins(make_tokenizer, tmp_path):
    first = write(tmp_path / "b.jsonl", {"instruction": "Say a.", "response": "a"}, {"instruction": "Say b.", "response": "b"})
    second = write(tmp_path / "a.jsonl", {"instruction": "Say", "input": "c", "response": "c"})
    tokenizer = make_tokenizer()
    dataset = load_dataset([first, second], tokenizer, max_length=7)
    assert dataset.origins == (f"{first} row 0", f"{first} row 1", f"{second} row 0")
    assert dataset.examples == tuple(
        encode(tokenizer, [user_message(*prompt), {"role": "assistant", "content": answer}], 7)
        for prompt, answer in ((("Say a.",), "a"), (("Say b.",), "b"), (("Say", "c"), "c"))
    )


REWRITES = "{{ messages[-2:] | map(attribute='content') | join }}"
DIALOGUE = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]


@mark.parametrize(
    ("row", "template", "complaint"),
    [
        ({"instruction": "Say a.", "response": ""}, None, "row 1: response should be non-empty text"),
        ({"messages": DIALOGUE}, REWRITES, "row 1: the chat template rewrites earlier turns at message 3"),
    ],
)
def test_a_bad_row_of_a_later_file_is_named(make_tokenizer, tmp_path, row, template, complaint):
    tokenizer, good = make_tokenizer(), {"instruction": "Say a.", "response": "a"}
    good = {"messages": DIALOGUE[:2]} if "messages" in row else good
    tokenizer.chat_template = template
    first, second = write(tmp_path / "a.jsonl", good), write(tmp_path / "b.jsonl", good, row)
    with raises(DataError, match=complaint) as caught:
        load_dataset([first, second], tokenizer, max_length=64)
    assert second in str(caught.value) and first not in str(caught.value)


def test_a_stamp_changes_with_its_file(tmp_path):
    path = tmp_path / "a.jsonl"
    assert stamps([str(path)]) == (None,)
    path.write_text("a")
    before = stamps([str(path)])
    assert before == stamps([str(path)]) != (None,)
    path.write_text("ab")
    assert stamps([str(path)]) != before
