"""How a model answers: greedily, up to the end of the response, as everywhere in a run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from actors.data.chat import Chat
from actors.data.encoding import PAD

if TYPE_CHECKING:
    from peft import PeftModel


@torch.no_grad()
def generate(model: PeftModel, chat: Chat, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """The answers to encoded prompts, in order. Of the model's own generation settings none acts (`load_base` removes them).

    Args:
        ids: Token ids of each prompt; padded on the left to the longest.
    """
    width, stops = max(map(len, ids)), chat.stop_ids
    tokens = torch.tensor([[PAD] * (width - len(row)) + list(row) for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    output = model.generate(
        input_ids=tokens.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(stops) or None,
        pad_token_id=PAD,
    )
    answers = [_until(row, stops) for row in output[:, width:].tolist()]
    return [cut(chat, text) for text in chat.tokenizer.batch_decode(answers, skip_special_tokens=True)]


def cut(chat: Chat, text: str) -> str:
    """The text before what the template puts after a response, where that is plain text."""
    stop = chat.stop_text
    return (text.partition(stop)[0] if stop else text).strip()


def _until(tokens: Sequence[int], stops: Collection[int]) -> list[int]:
    """The tokens before the first that ends a response."""
    return list(itertools.takewhile(lambda token: token not in stops, tokens))
