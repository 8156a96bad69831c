"""Fits of the linear probe that each hold out other rows, so that every row is scored by one that did not see it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from probe.classifiers.linear import LinearProbe, draw_layer, fit_linear
from probe.classifiers.numbers import check_finite
from probe.config import LinearRecipe


def cross_fit_linear(
    features: np.ndarray, labels: np.ndarray, held_out: Sequence[np.ndarray], recipe: LinearRecipe
) -> tuple[LinearProbe, np.ndarray]:
    """The probe, and the scores (n,) of held-out rows by fits that did not see them.

    A single mask is the paper's validation split: it stops the fit early, and rows outside it have the score NaN. Several
    masks hold out every row once; then each fit runs all epochs, and the probe is fitted to all rows.
    """
    scores = np.full(len(labels), np.nan)
    if len(held_out) == 1:
        probe = fit_linear(features, labels, held_out[0], recipe)
        scores[held_out[0]] = probe.score(features[held_out[0]])
        return probe, scores
    nothing = np.zeros(len(labels), dtype=bool)
    *parts, probe = fit_each(features, labels, [*held_out, nothing], recipe)
    for part, mask in zip(parts, held_out, strict=True):
        scores[mask] = part.score(features[mask])
    return probe, scores


def fit_each(features: np.ndarray, labels: np.ndarray, held_out: Sequence[np.ndarray], recipe: LinearRecipe) -> list[LinearProbe]:
    """For each mask the fit of all epochs to the rows that it does not hold out, as `fit_linear` without stopping early.

    Where one batch holds all rows the fits take their steps side by side: reading the features is what a step costs, and they
    are read once for all. The outcome is that of fits one by one up to rounding.
    """
    if max(int((~mask).sum()) for mask in held_out) > recipe.batch_size:
        return [fit_linear(features, labels, mask, recipe, stop_early=False) for mask in held_out]
    check_finite(features)
    x_nd, y_n = torch.from_numpy(np.asarray(features, dtype=np.float32)), torch.from_numpy(labels).float()
    sees_nk = torch.from_numpy(~np.stack(held_out, axis=1)).float()
    return _descend_together(x_nd, y_n, sees_nk, recipe)


def _descend_together(x_nd: torch.Tensor, y_n: torch.Tensor, sees_nk: torch.Tensor, recipe: LinearRecipe) -> list[LinearProbe]:
    """`sees_nk`: 1 where fit k sees row n, else 0."""
    num_rows_k, num_malicious_k = sees_nk.sum(0), (sees_nk * y_n[:, None]).sum(0)
    pos_weight_k = (num_rows_k - num_malicious_k) / num_malicious_k
    first, num_fits = draw_layer(x_nd.shape[1], torch.Generator().manual_seed(recipe.seed)), sees_nk.shape[1]
    weight_kd, bias_k = (parameter.detach().repeat_interleave(num_fits, 0).requires_grad_() for parameter in first.parameters())
    optimizer = torch.optim.AdamW([weight_kd, bias_k], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    y_nk, mean_nk = y_n[:, None].expand_as(sees_nk), sees_nk / num_rows_k
    for _ in range(recipe.max_epochs):
        logits_nk = x_nd @ weight_kd.T + bias_k
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(logits_nk, y_nk, mean_nk, pos_weight=pos_weight_k, reduction="sum").backward()
        _clip_each(weight_kd.grad, bias_k.grad, recipe.max_grad_norm)
        optimizer.step()
    return [LinearProbe(w.numpy().copy(), float(b)) for w, b in zip(weight_kd.detach(), bias_k.detach(), strict=True)]


def _clip_each(weight_kd: torch.Tensor, bias_k: torch.Tensor, most: float) -> None:
    """Clip the gradient of each fit to the L2 norm `most`, as `torch.nn.utils.clip_grad_norm_` does for one."""
    norm_k = (weight_kd.square().sum(1) + bias_k.square()).sqrt()
    factor_k = (most / (norm_k + 1e-6)).clamp(max=1)
    weight_kd.mul_(factor_k[:, None])
    bias_k.mul_(factor_k)
