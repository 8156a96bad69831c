"""Gauge (METHOD.md section 8): the factors of a LoRA module are known up to an invertible matrix, B A = (B M)(M^-1 A).

An attacker trains honestly and turns the sign of some ranks in both factors. The product, and with it all behaviour that a
client can be judged by, stays as it was, while averaging A and B apart cancels those ranks. The first ranks are turned, so
that attackers who do not talk to each other agree. Where A is frozen (FFA-LoRA) such an update is not admitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from defense.averaging.pairs import lora_pairs


def turned(state: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """An adapter with the sign of the first `share` of the ranks turned in A (r, in) and B (out, r)."""
    new = dict(state)
    for pair in lora_pairs(state):
        count = math.ceil(share * state[pair.a].shape[0])
        new[pair.a], new[pair.b] = state[pair.a].clone(), state[pair.b].clone()
        new[pair.a][:count] *= -1
        new[pair.b][:, :count] *= -1
    return new
