"""From a conversation to token ids with the loss on the responses only (docs/method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.data.chat import Chat, Message, Segment

IGNORED = -100
"""Label of a token that carries no loss."""
PAD = 0
"""Token id of the padding, which the mask hides. Every model has it; a tokenizer's own padding token may be absent, or new to the
model."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training example. `ids` and `labels` have one length; `labels` is IGNORED outside the responses."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def num_supervised(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    def cut(self, max_length: int) -> Encoded:
        """The first `max_length` tokens."""
        return Encoded(self.ids[:max_length], self.labels[:max_length])


def encode(chat: Chat, messages: Sequence[Message], max_length: int | None = None) -> list[Encoded]:
    """The examples of a conversation (`Chat.examples`), each cut to `max_length` tokens at the end.

    Raises:
        DataError: the chat template cannot lay out the conversation.
    """
    whole = [_encoded(chat, segments) for segments in chat.examples(messages)]
    return whole if max_length is None else [example.cut(max_length) for example in whole]


def encode_prompt(chat: Chat, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation that waits for the assistant's answer."""
    return chat.ids(chat.prompt(messages))


def _encoded(chat: Chat, segments: Sequence[Segment]) -> Encoded:
    ids: list[int] = []
    labels: list[int] = []
    for text, supervised in segments:
        piece = chat.ids(text)
        ids += piece
        labels += piece if supervised else [IGNORED] * len(piece)
    return Encoded(tuple(ids), tuple(labels))


@dataclass(frozen=True, slots=True)
class Batch:
    """A right-padded batch of B examples of at most T tokens."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 1 on tokens and 0 on padding."""
    labels: torch.Tensor
    """(B, T) int64, IGNORED outside responses."""

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


def collate(examples: Sequence[Encoded]) -> Batch:
    """Pad examples on the right."""
    width = max(len(example.ids) for example in examples)
    shape = (len(examples), width)
    batch = Batch(torch.full(shape, PAD), torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED))
    for row, example in enumerate(examples):
        length = len(example.ids)
        batch.input_ids[row, :length] = torch.tensor(example.ids)
        batch.attention_mask[row, :length] = 1
        batch.labels[row, :length] = torch.tensor(example.labels)
    return batch
