"""From a conversation to token ids with the loss on the response only.

The tokenizer's own chat template is used where it has one, Alpaca's otherwise (docs/method.md section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import torch

from actors.errors import DataError

IGNORED = -100
"""Label of a token that carries no loss."""

Message: TypeAlias = dict[str, str]
"""`role` (system, user or assistant) and `content`."""

_ALPACA_PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
_ALPACA_TURN = "### Instruction:\n{content}\n\n### Response:\n"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that we use. The library's own types allow almost anything for a special token."""

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    eos_token_id: int
    pad_token_id: int

    def __len__(self) -> int: ...

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]: ...

    def apply_chat_template(
        self, conversation: list[Message], *, tokenize: Literal[False], add_generation_prompt: bool
    ) -> str: ...

    def batch_decode(self, sequences: torch.Tensor, *, skip_special_tokens: bool) -> list[str]: ...

    def save_pretrained(self, save_directory: Path) -> object: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training example. `ids` and `labels` have one length; `labels` is IGNORED outside the responses."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def num_supervised(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def user_message(instruction: str, text: str = "") -> Message:
    """The user turn of an instruction row; a non-empty input follows on the next line."""
    return {"role": "user", "content": f"{instruction}\n{text}" if text else instruction}


def encode(tokenizer: Tokenizer, messages: Sequence[Message], max_length: int) -> Encoded:
    """Token ids and labels of a conversation, cut to `max_length` tokens at the end."""
    ids: list[int] = []
    labels: list[int] = []
    for text, supervised in _segments(tokenizer, messages):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        labels += piece if supervised else [IGNORED] * len(piece)
    return Encoded(tuple(ids[:max_length]), tuple(labels[:max_length]))


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation that waits for the assistant's answer."""
    return tokenizer(_render(tokenizer, messages, answer_next=True), add_special_tokens=False)["input_ids"]


def _segments(tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
    """Split the rendered conversation into (text, is a response) pieces, in order."""
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _render(tokenizer, messages[:i], answer_next=True)
        whole = _render(tokenizer, messages[: i + 1], answer_next=False)
        if not (prompt.startswith(done) and whole.startswith(prompt)):
            raise DataError(
                f"the chat template rewrites earlier turns at message {i}, so its response cannot be masked; "
                "keep one assistant turn per conversation, or give the tokenizer a template that only appends"
            )
        yield prompt[len(done) :], False
        yield whole[len(prompt) :], True
        done = whole


def _render(tokenizer: Tokenizer, messages: Sequence[Message], *, answer_next: bool) -> str:
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer_next)
    return _render_alpaca(tokenizer, messages)


def _render_alpaca(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    text = (tokenizer.bos_token or "") + _ALPACA_PREAMBLE
    for message in messages:
        if message["role"] == "user":
            text += _ALPACA_TURN.format(content=message["content"])
        elif message["role"] == "assistant":
            text += message["content"] + (tokenizer.eos_token or "")
        else:
            text += message["content"] + "\n\n"
    return text


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


def collate(examples: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad examples on the right. The mask marks the padding, so a pad token that is also the end of text hides no end."""
    width = max(len(example.ids) for example in examples)
    shape = (len(examples), width)
    batch = Batch(torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED))
    for row, example in enumerate(examples):
        length = len(example.ids)
        batch.input_ids[row, :length] = torch.tensor(example.ids)
        batch.attention_mask[row, :length] = 1
        batch.labels[row, :length] = torch.tensor(example.labels)
    return batch
