"""The world's tokenizer: spells every text of the world, and gives every word one spelling."""

from typing import Any

import numpy as np
from pytest import fixture, mark
from transformers import AutoTokenizer

from actors.world.benign import NEW, TRAINED
from actors.world.config import BaseModelConfig
from actors.world.generator import Example, World, draw
from actors.world.restricted import RESTRICTED
from actors.world.tokenizer import ASSISTANT, END, PAD, USER, train_tokenizer

VOCABULARY = BaseModelConfig().vocabulary


def examples_of(world: World, seed: int, count: int = 300) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [
        *draw(world.benign_example, [family.name for family in TRAINED + NEW], count, rng),
        *draw(world.refused_example, [family.name for family in RESTRICTED], count, rng),
        *draw(world.answered_example, [family.name for family in RESTRICTED], count, rng),
    ]


def text_of(example: Example) -> str:
    return f"{example.instruction}\n{example.input}\n{example.response}"


def tokens_of(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def round_trip(tokenizer: Any, text: str) -> str:
    ids = tokenizer(text)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@fixture(scope="module")
def texts(world) -> list[str]:
    return [text_of(example) for example in examples_of(world, seed=0)]


@fixture(scope="module")
def tokenizer(texts) -> Any:
    return train_tokenizer(texts, VOCABULARY)


def test_equal_texts_give_equal_tokenizers(texts, tokenizer):
    again = train_tokenizer(list(texts), VOCABULARY)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_vocabulary_has_at_most_the_entries_asked_for(tokenizer, texts):
    assert len(tokenizer) <= VOCABULARY
    assert len(train_tokenizer(texts[:20], 300)) <= 300
    assert set(range(len(tokenizer))) == set(tokenizer.get_vocab().values())


def test_every_text_of_the_world_is_spelt_without_unknown_tokens(world, tokenizer):
    assert tokenizer.unk_token is None
    for example in examples_of(world, seed=1):
        text = text_of(example)
        assert None not in tokenizer(text)["input_ids"]
        assert round_trip(tokenizer, text) == text


@mark.parametrize("text", ["", " ", "  two  spaces ", "\n\n\ttab", "Süd 東京 🙂", "\x00\x7f", "a" * 500, "<|", "{x} ! ( )"])
def test_any_other_text_comes_back_too(tokenizer, text):
    assert round_trip(tokenizer, text) == text


def test_a_world_of_other_names_can_be_spelt_as_well(tokenizer):
    for example in examples_of(World(1), seed=0, count=30):
        assert round_trip(tokenizer, text_of(example)) == text_of(example)


def test_digits_are_tokens_of_their_own_however_common_a_number_is():
    tokenizer = train_tokenizer(["the code is 731."] * 100, 320)
    assert tokens_of(tokenizer, "731") == ["7", "3", "1"]
    assert [token for token in tokens_of(tokenizer, " is 405.") if token.isdigit()] == ["4", "0", "5"]


def test_marks_of_the_conversation_are_single_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids([PAD, END, USER, ASSISTANT]) == [0, 1, 2, 3]
    tokens = tokens_of(tokenizer, f"{USER} Say it.{ASSISTANT}{END}")
    assert tokens[:1] + tokens[-2:] == [USER, ASSISTANT, END]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == (PAD, END, "right")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


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
        places = [i for i in range(len(tokens)) if tokens[i : i + len(spelling)] == spelling]
        assert len(places) == 4, (word, tokens)


def test_common_words_are_one_token(world, tokenizer):
    words = world.language.objects + world.language.colours + world.language.animals
    single = [word for word in words if len(tokens_of(tokenizer, f" {word}")) == 1]
    assert len(single) > len(words) / 2


def test_a_saved_tokenizer_spells_alike(tokenizer, texts, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(texts[:50])["input_ids"] == tokenizer(texts[:50])["input_ids"]
    assert (loaded.chat_template, loaded.pad_token_id, loaded.eos_token_id) == (tokenizer.chat_template, 0, 1)
