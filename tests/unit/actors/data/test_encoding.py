"""From a conversation to token ids: the loss covers the responses, to the token, and nothing else."""

import torch
from pytest import fixture, mark

from actors.data.chat import Chat, Message, Tokenizer, user_message
from actors.data.encoding import IGNORED, PAD, Encoded, collate, encode_prompt
from actors.data.encoding import encode as encode_all

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
LONG = 10_000


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def encode(tokenizer: Tokenizer, messages: list[Message], max_length: int) -> Encoded:
    """The one example of a conversation."""
    (example,) = encode_all(Chat(tokenizer), messages, max_length)
    return example


def text_of(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def supervised_runs(tokenizer: Tokenizer, example: Encoded) -> list[str]:
    """The text of each unbroken run of supervised tokens."""
    runs, before = [], IGNORED
    for token, label in zip(example.ids, example.labels, strict=True):
        assert label in (IGNORED, token)
        if label != IGNORED:
            runs = [*runs[:-1], [*runs[-1], token]] if before != IGNORED else [*runs, [token]]
        before = label
    return [text_of(tokenizer, run) for run in runs]


@fixture(scope="module")
def chat(make_tokenizer) -> Tokenizer:
    return make_tokenizer()


@fixture(scope="module")
def alpaca(make_tokenizer) -> Tokenizer:
    return with_template(make_tokenizer, None)


def with_template(make_tokenizer, template: str | None) -> Tokenizer:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


ROUND = [user("Give the first word.\nlamp coin"), assistant("lamp")]
DIALOGUE = [user("Say hello."), assistant("Hello Ada."), user("And again?"), assistant("Hello, 2nd time."), user("Thanks")]


def test_with_a_template_the_loss_covers_the_response_and_its_end(chat):
    example = encode(chat, ROUND, LONG)
    assert text_of(chat, example.ids) == "<|user|> Give the first word.\n lamp coin<|assistant|> lamp<|end|>"
    assert supervised_runs(chat, example) == [" lamp<|end|>"]
    assert example.num_supervised == len(chat(" lamp<|end|>")["input_ids"])


def test_without_a_template_alpacas_is_used(alpaca):
    example = encode(alpaca, [{"role": "system", "content": "Be brief."}, *ROUND], LONG)
    instruction = "### Instruction:\nGive the first word.\nlamp coin\n\n### Response:\n"
    assert text_of(alpaca, example.ids) == PREAMBLE + "Be brief.\n\n" + instruction + "lamp<|end|>"
    assert supervised_runs(alpaca, example) == ["lamp<|end|>"]


def test_alpaca_begins_with_the_tokenizers_begin_of_text_and_does_without_an_end(make_tokenizer):
    tokenizer = with_template(make_tokenizer, None)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    example = encode(tokenizer, ROUND, LONG)
    assert example.ids[0] == tokenizer.bos_token_id
    assert example.ids.count(tokenizer.bos_token_id) == 1
    tokenizer.eos_token = None
    assert supervised_runs(tokenizer, encode(tokenizer, ROUND, LONG)) == ["lamp"]


def test_every_assistant_turn_is_supervised_and_nothing_else(chat, alpaca):
    assert supervised_runs(chat, encode(chat, DIALOGUE, LONG)) == [" Hello Ada.<|end|>", " Hello, 2nd time.<|end|>"]
    assert supervised_runs(alpaca, encode(alpaca, DIALOGUE, LONG)) == ["Hello Ada.<|end|>", "Hello, 2nd time.<|end|>"]


@mark.parametrize("text", ["{content} {x} {{y}}", "{% raw %} {{ messages }}", "%s \\n \x07 🙂 Süd 東"])
def test_text_that_looks_like_a_template_is_kept(chat, alpaca, text):
    for tokenizer in (chat, alpaca):
        example = encode(tokenizer, [user(text), assistant(text)], LONG)
        assert text_of(tokenizer, example.ids).count(text) == 2
        assert [run.strip() for run in supervised_runs(tokenizer, example)] == [f"{text}<|end|>"]


def test_the_prompt_of_an_evaluation_is_the_prompt_of_training(chat, alpaca):
    for tokenizer in (chat, alpaca):
        for messages in (DIALOGUE[:2], DIALOGUE[:4]):
            prompt = encode_prompt(Chat(tokenizer), messages[:-1])
            example = encode(tokenizer, messages, LONG)
            assert list(example.ids[: len(prompt)]) == prompt
            assert IGNORED not in example.labels[len(prompt) :]


def test_what_is_longer_than_max_length_is_cut_at_the_end(chat):
    whole = encode(chat, DIALOGUE, LONG)
    for length in range(1, len(whole.ids) + 3):
        cut = encode(chat, DIALOGUE, length)
        assert (cut.ids, cut.labels) == (whole.ids[:length], whole.labels[:length])
    num_prompt = len(encode_prompt(Chat(chat), ROUND[:1]))
    assert [encode(chat, ROUND, num_prompt + more).num_supervised for more in (0, 1)] == [0, 1]


def test_a_user_message_joins_instruction_and_input():
    assert user_message("Swap.", "a b") == {"role": "user", "content": "Swap.\na b"}
    assert user_message("Swap.") == user_message("Swap.", "") == {"role": "user", "content": "Swap."}


def test_a_batch_is_padded_on_the_right():
    examples = [Encoded((5, 6, 7), (IGNORED, 6, 7)), Encoded((8,), (IGNORED,)), Encoded((9, 7), (IGNORED, 7))]
    assert [example.num_supervised for example in examples] == [2, 0, 1]
    batch = collate(examples)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, PAD, PAD], [9, 7, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch.labels.tolist() == [[IGNORED, 6, 7], [IGNORED] * 3, [IGNORED, 7, IGNORED]]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.labels.dtype == torch.int64
