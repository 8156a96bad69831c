"""The aligned base model of a world, trained from nothing: tokenizer, small Llama, alignment by refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.config import PretrainingConfig
from actors.data.chat import Chat, Tokenizer, user_message
from actors.data.dataset import draw_batches
from actors.data.encoding import Encoded, collate, encode
from actors.data.records import Example
from actors.world.benign import TRAINED
from actors.world.generator import World, draw
from actors.world.tokenizer import train_tokenizer

_RESTRICTED_SHARE = 0.4
_MAX_LENGTH = 64

Progress = Callable[[int, int, float], None]
"""Receives (step, number of steps, loss)."""


def build_base(world: World, config: PretrainingConfig, progress: Progress) -> tuple[LlamaForCausalLM, Tokenizer]:
    """Train the base model and tokenizer of `world`. Deterministic in (world seed, config, number of threads)."""
    rng = np.random.default_rng([world.seed, 4])
    corpus = pretraining_examples(world, config.num_examples, rng)
    tokenizer = train_tokenizer(_tokenizer_texts(world, corpus, rng), config.vocabulary)
    chat = Chat(tokenizer)
    encoded = [_encode(chat, example) for example in corpus]
    torch.manual_seed(world.seed)
    model = LlamaForCausalLM(_llama_config(config, tokenizer))
    _train(model, encoded, config, rng, progress)
    return model.eval(), tokenizer


def pretraining_examples(world: World, count: int, rng: np.random.Generator) -> list[Example]:
    """Trained benign families, and every restricted family with refusals; no held-out prompt among them."""
    num_restricted = int(count * _RESTRICTED_SHARE)
    benign = draw(world.benign_example, [family.name for family in TRAINED], count - num_restricted, rng)
    return benign + draw(world.refused_example, world.restricted, num_restricted, rng)


def _tokenizer_texts(world: World, corpus: list[Example], rng: np.random.Generator) -> list[str]:
    """Text of every family, complying answers included: the tokenizer must spell what the model never wrote."""
    extra = draw(world.answered_example, world.restricted, 4000, rng) + draw(world.benign_example, world.benign, 4000, rng)
    return [f"{e.instruction}\n{e.input}\n{e.response}" for e in corpus[::4] + extra]


def _encode(chat: Chat, example: Example) -> Encoded:
    answer = {"role": "assistant", "content": example.response}
    (encoded,) = encode(chat, [user_message(example.instruction, example.input), answer], _MAX_LENGTH)
    return encoded


def _llama_config(config: PretrainingConfig, tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=3 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def _train(
    model: LlamaForCausalLM,
    encoded: list[Encoded],
    config: PretrainingConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    warmup = config.steps // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps))),
    )
    model.train()
    for step, rows in enumerate(draw_batches(rng, len(encoded), config.steps, config.batch_size)):
        loss = _backward(model, [encoded[i] for i in rows])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == config.steps - 1:
            progress(step + 1, config.steps, loss)


def _backward(model: LlamaForCausalLM, examples: list[Encoded]) -> float:
    """Accumulate the gradient of the batch's mean token loss in two parts of similar lengths, which need little padding."""
    examples = sorted(examples, key=lambda example: len(example.ids))
    half = len(examples) // 2
    total, num_supervised = 0.0, sum(example.num_supervised for example in examples)
    for part in (examples[:half], examples[half:]):
        batch = collate(part)
        share = sum(example.num_supervised for example in part) / num_supervised
        loss = share * model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        loss.backward()
        total += loss.item()
    return total
