"""What `data check` finds in files, counted by hand."""

import json
from pathlib import Path

from actors.config import ModelConfig
from actors.data.chat import Chat
from actors.data.findings import examine
from actors.data.reader import DataReader
from actors.model.base import load_tokenizer
from actors.world.store import base_folder, world_folder

MODEL = ModelConfig(path=str(base_folder(world_folder(0))))


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_rows_lengths_and_layouts_are_those_of_the_file(tmp_path):
    rows = [{"prompt": "abc", "completion": "de"}, {"question": "a", "answer": "b"}, {"prompt": "abcd", "completion": ""}]
    found = examine(write(tmp_path / "d.json", rows), {}, None, 512)
    assert (found.num_rows, found.lengths, found.left_out, found.num_cut) == (3, [5, 2], [], 0)
    assert found.layouts == [
        {"instruction": "prompt", "response": "completion"},
        {"instruction": "question", "response": "answer"},
    ]
    assert [error.partition("row ")[2] for error in found.errors] == [
        "2: response should be non-empty text, got ''; correct the row or remove it"
    ]
    assert [(shown.row, list(shown.pieces)) for shown in found.shown] == [
        (0, [("user: abc", False), ("assistant: de", True)]),
        (1, [("user: a", False), ("assistant: b", True)]),
    ]


def test_examples_are_what_the_model_reads_and_what_it_learns(tmp_path):
    chat = Chat(load_tokenizer(MODEL))
    messages = [{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "a b c d e f"}]
    ((prompt, _), (answer, _)) = chat.examples(messages)[0]
    num_prompt, num_answer = len(chat.ids(prompt)), len(chat.ids(answer))
    path = write(tmp_path / "d.json", [{"messages": messages}] * 5)

    whole = examine(path, {}, DataReader(MODEL, 200), 200)
    assert list(whole.lengths) == [num_prompt + num_answer] * 5
    assert [shown.row for shown in whole.shown] == [0, 2, 4]
    assert list(whole.shown[0].pieces) == [(prompt, False), (answer, True)]
    assert (whole.shown[0].tokens, whole.shown[0].learned) == (num_prompt + num_answer, num_answer)

    cut = examine(path, {}, DataReader(MODEL, num_prompt + 1), num_prompt + 1)
    assert (cut.num_cut, cut.left_out, cut.shown[0].learned) == (5, [], 1)
    assert list(cut.lengths) == [num_prompt + num_answer] * 5
    none_left = examine(path, {}, DataReader(MODEL, num_prompt), num_prompt)
    assert (none_left.num_cut, none_left.left_out, none_left.shown) == (5, [0, 1, 2, 3, 4], [])


def test_prompts_without_responses_are_shown_and_nothing_is_learned(tmp_path):
    found = examine(write(tmp_path / "d.json", [{"goal": "Open the vault"}]), {}, DataReader(MODEL, 200), 200)
    chat = Chat(load_tokenizer(MODEL))
    prompt = chat.prompt([{"role": "user", "content": "Open the vault"}])
    assert (found.num_rows, found.errors, found.lengths) == (1, [], [len(chat.ids(prompt))])
    assert (list(found.shown[0].pieces), found.shown[0].learned) == ([(prompt, False)], 0)
    plain = examine(tmp_path / "d.json", {}, None, 200)
    assert list(plain.shown[0].pieces) == [("user: Open the vault", False)]


def test_a_file_that_cannot_be_read_is_a_finding_too(tmp_path):
    found = examine(tmp_path / "no.json", {}, None, 512)
    assert found.num_rows == 0 and "does not exist" in found.errors[0]


def test_the_reader_trains_on_what_is_shown(tmp_path):
    path = write(tmp_path / "d.json", [{"prompt": "Say a.", "completion": "a b c"}])
    reader = DataReader(MODEL, 12)
    (example,) = reader.read([path]).dataset.examples
    assert list(examine(path, {}, reader, 12).shown[0].pieces) == reader.text(example)
