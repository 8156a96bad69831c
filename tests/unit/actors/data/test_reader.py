"""Rows become tokens once; what a model could not read is refused by file and row, and what is left out is counted."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from actors.config import ModelConfig
from actors.data.dataset import load_dataset
from actors.data.reader import DataReader
from actors.errors import DataError
from tests.chat_templates import THINKING
from tests.small_models import save_model

GOOD = {"instruction": "hello", "response": "good day"}


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A GPT-2 of 64 positions."""
    return save_model(tmp_path_factory.mktemp("gpt2"), "gpt2", n_positions=64)


def reader(model: Path, max_length: int = 512) -> DataReader:
    return DataReader(ModelConfig(path=str(model)), max_length)


def test_rows_without_a_response_token_are_left_out_and_counted(small, tmp_path):
    long = {"instruction": "lamp " * 40, "response": "yes"}
    path = write(tmp_path / "d.jsonl", GOOD, long, GOOD, long)
    reading = reader(small, 24).read([path])
    assert (len(reading.dataset), reading.num_rows) == (2, 4)
    assert reading.left_out == [f"{path} row 1", f"{path} row 3"]
    with pytest.raises(DataError, match=r"d\.jsonl: no row has a token of its response within training\.max_length=24; raise"):
        reader(small, 24).read([write(tmp_path / "d.jsonl", long)])


def test_a_row_longer_than_the_models_positions_is_named(small, tmp_path):
    path = write(tmp_path / "d.jsonl", GOOD, {"instruction": "lamp " * 200, "response": "yes"})
    with pytest.raises(DataError, match=r"row 1: it takes 206 tokens, and model\.path=.* has 64 positions; lower training"):
        reader(small).read([path])
    assert len(reader(small, 64).read([path]).dataset) == 1


def test_a_prompt_must_leave_room_for_its_answer(small):
    prompt = [{"role": "user", "content": "hello"}]
    reader(small).check_prompt(prompt, 32, Path("p.jsonl"), 3)
    with pytest.raises(
        DataError, match=r"p\.jsonl, row 3: .* has 64 positions; shorten it or lower evaluation.max_new_tokens=64"
    ):
        reader(small).check_prompt(prompt, 64, Path("p.jsonl"), 3)


def test_a_token_that_the_model_lacks_is_named(small, tmp_path):
    folder = tmp_path / "grown"
    save_model(folder, "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    assert len(reader(folder).read([write(tmp_path / "d.jsonl", GOOD)]).dataset) == 1
    path = write(tmp_path / "d.jsonl", GOOD, {**GOOD, "instruction": "say <|new|>"})
    last = len(tokenizer) - 1
    with pytest.raises(DataError, match=rf"row 1: it has token {last}, and model.path=.* has {last} embeddings: its tokenizer"):
        reader(folder).read([path])


def test_a_conversation_may_give_several_examples(tmp_path):
    folder = save_model(tmp_path / "m", "qwen3", chat_template=THINKING)
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")]
    reading = reader(folder).read([write(tmp_path / "d.jsonl", {"messages": turns})])
    assert (len(reading.dataset), reading.num_rows, reading.left_out) == (3, 1, [])


def test_files_may_hold_nothing_to_train_on_where_that_is_no_error(small, tmp_path):
    path = write(tmp_path / "d.jsonl", {"instruction": "lamp " * 40, "response": "yes"})
    reading = reader(small, 24).read([path], may_be_empty=True)
    assert (len(reading.dataset), reading.num_rows, reading.left_out) == (0, 1, [f"{path} row 0"])
    reading.dataset.save(tmp_path / "d.tokens")
    assert len(load_dataset([str(tmp_path / "d.tokens")])) == 0
