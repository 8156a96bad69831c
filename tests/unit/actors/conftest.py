"""Small things made on the spot: a client's data, and for tests without the shipped world a tokenizer and a random base model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytest import fixture
from transformers import LlamaConfig, LlamaForCausalLM

from actors.data.reader import DataReader
from actors.world.datasets import write_parquet
from actors.world.generator import draw
from actors.world.tokenizer import train_tokenizer


@fixture(scope="session")
def tokens_of(base_config) -> Callable[..., tuple[str, ...]]:
    """Encodes data files for the shipped model, beside the first of them."""

    def encode(*paths: Path, max_length: int = 512) -> tuple[str, ...]:
        tokens = paths[0].with_suffix(".tokens")
        DataReader(base_config, max_length).read(paths).dataset.save(tokens)
        return (str(tokens),)

    return encode


@fixture(scope="session")
def files(world, tokens_of, tmp_path_factory) -> tuple[str, ...]:
    """An honest client's data: twenty rows of the shipped world, encoded; no test writes to it."""
    examples = draw(world.benign_example, world.roles["federation"].benign, 20, np.random.default_rng(0))
    return tokens_of(write_parquet(tmp_path_factory.mktemp("data") / "a.parquet", examples))


@fixture(scope="session")
def make_tokenizer() -> Callable[[], Any]:
    """Builds a tokenizer with a chat template; delete `chat_template` on it for Alpaca's."""

    def build() -> Any:
        texts = ["Give the first word.\nlamp coin rope\nlamp", "Say hello to Ada.\n\nHello Ada, good day to you."]
        return train_tokenizer(texts * 3, 320)

    return build


@fixture(scope="session")
def write_base(make_tokenizer) -> Callable[..., Path]:
    """Writes a random two-layer Llama with its tokenizer to a folder."""

    def write(folder: Path, *, seed: int = 0, hidden: int = 32) -> Path:
        tokenizer = make_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            initializer_range=0.2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@fixture(scope="session")
def tiny_base(write_base, tmp_path_factory) -> Path:
    """Folder of the random base model that tests share; none of them writes to it."""
    return write_base(tmp_path_factory.mktemp("base") / "model")
