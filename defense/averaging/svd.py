"""The best rank-r approximation of the clients' mean B A, module by module (by Eckart and Young, its truncated SVD).

The mean is over what clients hold, B_i A_i with B_i = global B + delta: a mean of deltas would not be one of products. It
is never formed: with B~ = [c_1 B_1 ... c_n B_n] and A~ = [A_1; ...; A_n] it is B~ A~, so QR of both leaves a core of at
most n r x n r to decompose: B~ A~ = Q_b (R_b R_a') Q_a' = U S V'.

A product does not determine its factors: (B M, inv(M) A) is as good for any M. Here A = s R V' and B = U S R' / s. All of S is
in B, so a direction without weight keeps its row in A and can still be trained, as with LoRA's initialisation. s gives A the
norm of the global A, and R is the rotation that brings A nearest to it. So signs and order of the singular vectors do not matter,
nor their choice among equal singular values, and B stays comparable with the global B, as probes need it to be.

Shapes: N clients, O outputs, I inputs, R rank, K = min(O, N R) or min(I, N R).
"""

from __future__ import annotations

import math

import torch

from defense.averaging.pairs import lora_pairs
from defense.rules.round_updates import Aggregate, RoundUpdates
from defense.tensors import Tensors


def aggregate(updates: RoundUpdates, adapter: Tensors) -> Aggregate:
    """From the global adapter to the factors of the best approximation, with the error of the whole.

    Args:
        updates: Deltas of the round's clients, weighted by n w.
        adapter: The global adapter that they are deltas of.

    Raises:
        ValueError: nothing was added, or a parameter is no factor of a LoRA module.
    """
    shares_N = updates.masses_N / updates.masses_N.sum()
    delta, lost, total = {}, 0.0, 0.0
    for pair in lora_pairs(updates.names):
        a_RI, b_OR = adapter[pair.a].double(), adapter[pair.b].double()
        a_NRI = a_RI + updates.rows_NW(pair.a).reshape(-1, *a_RI.shape)
        b_NOR = b_OR + updates.rows_NW(pair.b).reshape(-1, *b_OR.shape)
        left_OR, values_R, right_RI, lost_here, total_here = truncated(b_NOR, a_NRI, shares_N)
        new_a, new_b = split(left_OR, values_R, right_RI, a_RI)
        delta |= {pair.a: new_a - a_RI, pair.b: new_b - b_OR}
        lost, total = lost + lost_here, total + total_here
    return Aggregate(delta=delta, error=math.sqrt(lost / total) if total else 0.0)


def truncated(
    b_NOR: torch.Tensor, a_NRI: torch.Tensor, shares_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, float]:
    """Of sum_i c_i B_i A_i: U, S and V' of rank R, the squared norm of what they leave out, and that of the whole."""
    rank = b_NOR.shape[2]
    stacked_OM = (shares_N[:, None, None] * b_NOR).transpose(0, 1).flatten(1)
    basis_OK, left_KM = torch.linalg.qr(stacked_OM)
    basis_IK, right_KM = torch.linalg.qr(a_NRI.flatten(0, 1).T)
    u_KK, values_K, v_KK = torch.linalg.svd(left_KM @ right_KM.T, full_matrices=False)
    squares_K = values_K.square()
    kept = basis_OK @ u_KK[:, :rank], values_K[:rank], v_KK[:rank] @ basis_IK.T
    return *kept, float(squares_K[rank:].sum()), float(squares_K.sum())


def split(
    left_OR: torch.Tensor, values_R: torch.Tensor, right_RI: torch.Tensor, near_RI: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B whose product is U S V'. A has orthogonal rows and the norm of `near`, and is turned as near to it as possible.

    A module with fewer inputs or outputs than the rank needs fewer than R singular vectors, so fewer are given.
    """
    rank = near_RI.shape[0]
    scale = float(near_RI.norm()) / math.sqrt(rank) or 1.0
    towards_RR, _, from_RR = torch.linalg.svd(near_RI @ right_RI.T, full_matrices=False)
    rotation_RR = towards_RR @ from_RR
    return scale * rotation_RR @ right_RI, (left_OR * values_R) @ rotation_RR.T / scale
