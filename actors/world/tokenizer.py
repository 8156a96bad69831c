"""The world's tokenizer: byte-level BPE with digits split and a short chat template."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from actors.data.chat import Tokenizer

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|> {{ message['content'] | replace('\\n', '\\n ') }}"
    "{% else %}<|assistant|> {{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A space stands before every word, also before the first of a line, so a word has the same tokens wherever it stands."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Fit a tokenizer of at most `vocabulary` entries; deterministic in the order of `texts`."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END, padding_side="right")
    fast.chat_template = CHAT_TEMPLATE
    return fast  # pyright: ignore[reportReturnType] - transformers' types of special tokens
