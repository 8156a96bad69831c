"""Logits at chosen positions, through the model's own output layer.

The positions are chosen before that layer: a response is a part of a row, and the layer is most of a small model's work and, with
a large vocabulary, of its memory. What a model does with its logits (scaling, soft caps) it still does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from peft import PeftModel


def logits_at(peft: PeftModel, positions: torch.Tensor, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Logits (n, vocabulary) of the n chosen positions, row after row.

    Args:
        positions: (batch, time), bool.
        input_ids: (batch, time); likewise `attention_mask`.
    """
    chosen = False

    def choose(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal chosen
        chosen = True
        hidden, *others = inputs
        return (hidden[positions.to(hidden.device)][None], *others)

    head = peft.get_base_model().get_output_embeddings()  # pyright: ignore[reportCallIssue]
    hook = head.register_forward_pre_hook(choose) if head is not None else None
    try:
        logits = peft(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits[0] if chosen else logits[positions]
