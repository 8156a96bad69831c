"""How templates of real shapes lay out conversations: what is a response, where it ends, and what is refused."""

import pytest

from actors.data.chat import Chat, fixed_template
from actors.data.encoding import IGNORED, encode, encode_prompt
from actors.errors import DataError, ModelError
from tests.chat_templates import BRACKETS, DATED, SHAPES, with_shape


def turn(role: str, text: str) -> dict:
    return {"role": role, "content": text}


ROUND = [turn("user", "hello"), turn("assistant", "good day")]
DIALOGUE = [*ROUND, turn("user", "say a"), turn("assistant", "a is said")]


@pytest.fixture
def chat(make_tokenizer):
    """The layout of a shape: `chat("chatml")`."""

    def make(name: str) -> Chat:
        tokenizer = with_shape(make_tokenizer(), name)
        tokenizer.chat_template = fixed_template(tokenizer.chat_template)
        return Chat(tokenizer)

    return make


def responses(chat: Chat, messages: list[dict]) -> list[list[str]]:
    """For each example the text of each of its responses."""
    return [[text for text, is_response in example if is_response] for example in chat.examples(messages)]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("chatml", "<|im_end|>\n"),
        ("no system", "<end_of_turn>\n"),
        ("dated", "<|eot_id|>"),
        ("ends", "<|end|>\n"),
        ("plain", "\n### End\n"),
    ],
)
def test_a_template_that_appends_gives_one_example_with_every_response_and_its_end(chat, name, end):
    assert responses(chat(name), DIALOGUE) == [[f"good day{end}", f"a is said{end}"]]


def test_a_response_keeps_the_space_that_it_begins_with(chat):
    brackets = chat("brackets")
    assert responses(brackets, DIALOGUE) == [[" good day<eos>", " a is said<eos>"]]
    assert brackets.prompt(ROUND[:1]) == "<bos>[INST] hello [/INST]"


def test_where_a_template_rewrites_the_turns_before_each_response_is_an_example_of_its_own(chat):
    thinking = chat("thinking")
    thoughts = "<think>\n\n</think>\n\n"
    first = f"<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n{thoughts}"
    second = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\ngood day<|im_end|>\n<|im_start|>user\nsay a<|im_end|>\n"
    assert thinking.examples(DIALOGUE) == [
        [(first, False), ("good day<|im_end|>\n", True)],
        [(f"{second}<|im_start|>assistant\n{thoughts}", False), ("a is said<|im_end|>\n", True)],
    ]
    assert thinking.prompt(ROUND[:1]) == first  # an evaluation goes on after the thoughts, as the response does in training


@pytest.mark.parametrize("name", SHAPES)
def test_the_prompt_of_an_evaluation_is_the_prompt_of_training(chat, name):
    layout = chat(name)
    for messages in (ROUND, DIALOGUE):
        prompt, example = encode_prompt(layout, messages[:-1]), encode(layout, messages, 10_000)[-1]
        assert list(example.ids[: len(prompt)]) == prompt
        assert IGNORED not in example.labels[len(prompt) :]


@pytest.mark.parametrize(
    ("name", "stops", "text"),
    [
        ("chatml", ["<|im_end|>", "<eos>"], ""),
        ("thinking", ["<|im_end|>", "<eos>"], ""),
        ("no system", ["<end_of_turn>", "<eos>"], ""),
        ("brackets", ["<eos>"], ""),
        ("dated", ["<|eot_id|>", "<eos>"], ""),
        ("ends", ["<|end|>", "<eos>"], ""),
        ("plain", ["<eos>"], "### End"),
    ],
)
def test_a_response_ends_at_what_the_template_puts_after_it_and_at_the_end_of_text(chat, name, stops, text):
    layout = chat(name)
    assert layout.stop_ids == set(layout.tokenizer.convert_tokens_to_ids(stops))
    assert layout.stop_text == text


def test_a_model_without_any_end_of_a_response_is_refused(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.eos_token, tokenizer.chat_template = None, None
    with pytest.raises(ModelError, match="neither the tokenizer nor its chat template ends a response; set eos_token"):
        _ = Chat(tokenizer).stop_ids


def test_a_conversation_that_a_template_refuses_is_told_with_its_reason(chat):
    with pytest.raises(DataError, match="refuses a conversation of roles system, user: System role not supported"):
        chat("no system").examples([turn("system", "be brief"), *ROUND])
    with pytest.raises(DataError, match="roles user, user: Roles must alternate"):
        chat("brackets").examples([ROUND[0], *ROUND])


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['role'] }}{% endfor %}",
        "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> <think>{% endif %}",
    ],
)
def test_a_template_that_does_not_put_a_response_after_its_prompt_is_refused(make_tokenizer, template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="does not put a response after its prompt"):
        Chat(tokenizer).prompt(ROUND[:1])


def test_a_template_that_prints_the_date_prints_the_same_on_every_day(chat):
    assert "Today Date: 26 Jul 2024<|eot_id|>" in chat("dated").prompt(ROUND[:1])
    assert "strftime_now(" not in fixed_template(DATED)
    with pytest.raises(ModelError, match="write a fixed date"):
        fixed_template("{% set how = '%Y' %}{{ strftime_now(how) }}")


def test_of_several_templates_the_default_is_used():
    assert fixed_template({"tool_use": "x", "default": BRACKETS}) == BRACKETS
    assert fixed_template(None) is None
    with pytest.raises(ModelError, match=r"\['rag', 'tool_use'\] and none named default"):
        fixed_template({"tool_use": "x", "rag": "y"})
