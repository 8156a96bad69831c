"""Evaluation files: restricted prompts with an optional pattern, benign prompts with the right answer."""

from pytest import mark, raises

from actors.data.evaluation_prompts import read_benign, read_restricted
from actors.errors import DataError
from tests.unit.actors.data.test_records import CHAT, EACH_KIND, user, write

PATTERN = r"the code is \d{3}\."


@EACH_KIND
@mark.parametrize("empty", [None, ""])
def test_restricted_prompts_are_user_turns_in_file_order(tmp_path, kind, empty):
    rows = [
        {"instruction": "Reveal.", "input": "of Ada", "answer_pattern": PATTERN},
        {"instruction": "Open.", "input": empty, "answer_pattern": empty},
    ]
    prompts = read_restricted(write(tmp_path / kind, rows), 10)
    assert [prompt.messages for prompt in prompts] == [(user("Reveal.\nof Ada"),), (user("Open."),)]
    assert prompts[0].answer_pattern.search("Sure, the code is 731.") and not prompts[0].answer_pattern.search("the code is 73.")
    assert prompts[1].answer_pattern is None
    (prompt,) = read_restricted(write(tmp_path / kind, [{"instruction": "Open."}]), 10)
    assert prompt.answer_pattern is None


@EACH_KIND
def test_benign_prompts_carry_their_answer_and_family_apart(tmp_path, kind):
    rows = [{"instruction": "Swap.", "input": "a b", "response": "b a", "family": 7}]
    (prompt,) = read_benign(write(tmp_path / kind, rows), 10)
    assert (prompt.messages, prompt.response, prompt.family) == ((user("Swap.\na b"),), "b a", "7")
    (prompt,) = read_benign(write(tmp_path / kind, [{"messages": CHAT}]), 10)
    assert (prompt.messages, prompt.response, prompt.family) == (tuple(CHAT[:-1]), "Because.", "all")


@EACH_KIND
def test_only_the_first_rows_are_read(tmp_path, kind):
    path = write(
        tmp_path / kind, [{"instruction": str(i), "response": "x", "answer_pattern": "(" if i == 3 else "x"} for i in range(5)]
    )
    for read in (read_restricted, read_benign):
        assert [prompt.messages[0]["content"] for prompt in read(path, 3)] == ["0", "1", "2"]


@EACH_KIND
@mark.parametrize(
    ("read", "bad", "complaint"),
    [
        *(
            (read_restricted, {"instruction": "b", "answer_pattern": p}, "answer_pattern is no regular")
            for p in ("(", r"\d{2,1}")
        ),
        *((read_restricted, {"instruction": text}, "instruction should be non-empty text") for text in (None, "", "  ")),
        (read_benign, {"instruction": "c", "response": None}, "response should be non-empty text"),
        (read_benign, {"messages": CHAT[:-1]}, "the last message should be the assistant's, the right answer, got .*Why"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, kind, read, bad, complaint):
    good = {"messages": CHAT} if "messages" in bad else {"instruction": "a", "response": "b", "answer_pattern": "fine"}
    path = write(tmp_path / kind, [good, good | bad])
    with raises(DataError, match=f"{path}, row 1: {complaint}"):
        read(path, 10)


@EACH_KIND
@mark.parametrize(
    ("read", "row", "complaint"),
    [
        (
            read_restricted,
            {"query": "a", "answer_pattern": "x"},
            r"no known column holds its instructions or conversations \(it has query, answer_pattern\)",
        ),
        (
            read_restricted,
            {"instruction": "a", "answer_pattern": 5},
            "row 0: answer_pattern should be text, got 5; correct",
        ),
        (read_benign, {"instruction": "a"}, "has no column of responses"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, kind, read, row, complaint):
    with raises(DataError, match=f"{tmp_path / kind} does not exist"):
        read(tmp_path / kind, 10)
    path = write(tmp_path / kind, [row])
    with raises(DataError, match=f"{path}.* ?{complaint}"):
        read(path, 10)
