"""The world's tokenizer: spells every text, and gives every word one spelling."""

import numpy as np
from pytest import fixture, mark

from actors.config import PretrainingConfig
from actors.data.chat import Tokenizer
from actors.world.generator import World, draw
from actors.world.tokenizer import ASSISTANT, END, PAD, USER, train_tokenizer

VOCABULARY = PretrainingConfig().vocabulary


def texts_of(world: World, seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    examples = draw(world.benign_example, world.benign, count, rng)
    for make in (world.refused_example, world.answered_example):
        examples += draw(make, world.restricted, count, rng)
    return [f"{example.instruction}\n{example.input}\n{example.response}" for example in examples]


def tokens_of(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


@fixture(scope="module")
def tokenizer(world) -> Tokenizer:
    return train_tokenizer(texts_of(world, 0, 300), VOCABULARY)


def test_the_vocabulary_has_at_most_the_entries_asked_for(tokenizer):
    assert len(tokenizer) <= VOCABULARY
    assert len(train_tokenizer(["Give the first word.\nlamp"] * 3, 300)) <= 300


@mark.parametrize("seed", [0, 1])
def test_every_text_of_any_world_and_any_other_text_comes_back(tokenizer, seed):
    odd = ["", " ", "  two  spaces ", "\n\n\ttab", "Süd 東京 🙂", "\x00\x7f", "a" * 500, "<|", "{x} ! ( )"]
    for text in texts_of(World(seed), 1, 100) + odd:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_digits_are_tokens_of_their_own_however_common_a_number_is():
    tokenizer = train_tokenizer(["the code is 731."] * 100, 320)
    assert tokens_of(tokenizer, "731") == ["7", "3", "1"]


def test_marks_of_the_conversation_are_single_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids([PAD, END, USER, ASSISTANT]) == [0, 1, 2, 3]
    tokens = tokens_of(tokenizer, f"{USER} Say it.{ASSISTANT}{END}")
    assert tokens[:1] + tokens[-2:] == [USER, ASSISTANT, END]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == (PAD, END, "right")


def test_the_template_writes_turns_as_the_base_model_learned_them(tokenizer):
    messages = [{"role": "user", "content": "Say it.\nlamp"}, {"role": "assistant", "content": "lamp"}]
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|> Say it.\n lamp<|assistant|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == asked + " lamp<|end|>"


def test_a_word_has_one_spelling_wherever_it_stands(world, tokenizer):
    for word in world.language.objects + world.language.first_names:
        messages = [{"role": "user", "content": f"{word} and {word}\n{word}"}, {"role": "assistant", "content": word}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        tokens, spelling = tokens_of(tokenizer, text), tokens_of(tokenizer, f" {word}")
        assert sum(tokens[i : i + len(spelling)] == spelling for i in range(len(tokens))) == 4, (word, tokens)
