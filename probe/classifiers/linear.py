"""The linear LoRA-Probe: one layer d -> 1 with a sigmoid (docs/method.md section 2).

The command line reads the settings, so torch is imported only where a fit needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt

from probe.calibration import sigmoid
from probe.classifiers.base import ClassifierSpec, cross_fit
from probe.classifiers.numbers import NUMBERS_FILE, check_finite, read_numbers, write_numbers

if TYPE_CHECKING:
    import torch


class LinearSettings(BaseModel, extra="forbid", frozen=True):
    """How the linear probe is fitted; the defaults are the paper's (docs/method.md section 2)."""

    learning_rate: PositiveFloat = 0.01
    weight_decay: NonNegativeFloat = 2.0
    batch_size: PositiveInt = 256
    max_epochs: PositiveInt = 100
    patience: PositiveInt = 15
    """Epochs without the validation loss falling by `min_improvement` after which the fit stops."""
    min_improvement: NonNegativeFloat = 1e-4
    max_grad_norm: PositiveFloat = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """A `Classifier`: P(malicious) = sigmoid(weight . x + bias)."""

    weight: np.ndarray
    """(d,) float32."""
    bias: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Each row's products are summed in float64."""
        weight = self.weight.astype(np.float64)
        return np.array([sigmoid(float(np.add.reduce(row.astype(np.float64) * weight)) + self.bias) for row in features])

    def files(self) -> dict[str, bytes]:
        return write_numbers({"weight": self.weight, "bias": np.array([self.bias])})

    @staticmethod
    def load(files: Mapping[str, bytes]) -> LinearProbe:
        weight, bias = read_numbers(files, "weight", "bias")
        if weight.ndim != 1 or bias.size != 1:
            raise ValueError(f"{NUMBERS_FILE}: expected a weight vector and one bias, got shapes {weight.shape} and {bias.shape}")
        return LinearProbe(weight=weight, bias=bias.item())

    @property
    def num_values(self) -> int:
        return len(self.weight)


def fit_linear(
    features: np.ndarray, labels: np.ndarray, validation: np.ndarray, settings: LinearSettings, *, stop_early: bool = True
) -> LinearProbe:
    """Fit by AdamW on the weighted cross-entropy.

    Args:
        features: (n, d) float32, one row per local step.
        labels: (n,) 1 for malicious, 0 for benign; both classes among the rows that are not held out.
        validation: (n,) true for the rows that are held out (`probe.splits`).
        stop_early: Return the parameters of the epoch with the lowest loss on them, and stop when it falls no more.

    Raises:
        ValueError: a feature that is not finite.
    """
    x, y = _tensors(features, labels)
    descent, held = _Descent(x[~validation], y[~validation], settings), (x[validation], y[validation])
    best, best_loss, stale = descent.probe(), math.inf, 0
    for _ in range(settings.max_epochs):
        descent.run_epoch()
        if not stop_early:
            continue
        loss = float(descent.loss(*held).detach())
        if loss < best_loss - settings.min_improvement:
            best, best_loss, stale = descent.probe(), loss, 0
        else:
            stale += 1
        if stale >= settings.patience:
            break
    return best if stop_early else descent.probe()


def fit_each(
    features: np.ndarray, labels: np.ndarray, held_out: Sequence[np.ndarray], settings: LinearSettings
) -> list[LinearProbe]:
    """For each mask the fit to the rows outside it: a single one stops early, several run all epochs.

    Where one batch holds all rows, several fits take their steps side by side: reading the features is what a step costs, and
    they are read once for all. The outcome is that of fits one by one up to rounding.
    """
    if len(held_out) == 1:
        return [fit_linear(features, labels, held_out[0], settings)]
    if max(int((~mask).sum()) for mask in held_out) > settings.batch_size:
        return [fit_linear(features, labels, mask, settings, stop_early=False) for mask in held_out]
    return _fit_together(*_tensors(features, labels), ~np.stack(held_out, axis=1), settings)


def cross_fit_linear(
    features: np.ndarray, labels: np.ndarray, held_out: Sequence[np.ndarray], settings: LinearSettings
) -> tuple[LinearProbe, np.ndarray]:
    """The probe and its held-out scores, as `cross_fit`."""
    return cross_fit(features, held_out, lambda masks: fit_each(features, labels, masks, settings))


def _fit_together(x_nd: torch.Tensor, y_n: torch.Tensor, sees: np.ndarray, settings: LinearSettings) -> list[LinearProbe]:
    """`sees`: (n, k), true where fit k sees row n."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    sees_nk = torch.from_numpy(sees).float()
    num_rows_k, num_malicious_k = sees_nk.sum(0), (sees_nk * y_n[:, None]).sum(0)
    pos_weight_k = (num_rows_k - num_malicious_k) / num_malicious_k
    first = _draw_parameters(x_nd.shape[1], torch.Generator().manual_seed(settings.seed))
    weight_kd, bias_k = (parameter.repeat_interleave(sees.shape[1], 0).requires_grad_() for parameter in first)
    optimizer = torch.optim.AdamW([weight_kd, bias_k], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    y_nk, mean_nk = y_n[:, None].expand_as(sees_nk), sees_nk / num_rows_k
    for _ in range(settings.max_epochs):
        logits_nk = x_nd @ weight_kd.T + bias_k
        loss = binary_cross_entropy_with_logits(logits_nk, y_nk, mean_nk, pos_weight=pos_weight_k, reduction="sum")
        gradient_kd, gradient_k = torch.autograd.grad(loss, (weight_kd, bias_k))
        weight_kd.grad, bias_k.grad = _clip_each(gradient_kd, gradient_k, settings.max_grad_norm)
        optimizer.step()
    return [LinearProbe(w.numpy().copy(), float(b)) for w, b in zip(weight_kd.detach(), bias_k.detach(), strict=True)]


def _tensors(features: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    check_finite(features)
    return torch.from_numpy(np.asarray(features, dtype=np.float32)), torch.from_numpy(labels).float()


def _draw_parameters(width: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (1, width) and bias (1,) as torch initialises a linear layer, without the global random state."""
    import torch

    bound = width**-0.5
    weight = torch.empty(1, width).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(1).uniform_(-bound, bound, generator=generator)


def _clip_each(weight_kd: torch.Tensor, bias_k: torch.Tensor, most: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of each fit clipped to the L2 norm `most`, as `torch.nn.utils.clip_grad_norm_` does for one."""
    norm_k = (weight_kd.square().sum(1) + bias_k.square()).sqrt()
    factor_k = (most / (norm_k + 1e-6)).clamp(max=1)
    return weight_kd * factor_k[:, None], bias_k * factor_k


class _Descent:
    """AdamW on the rows x (n, d) of the labels y (n,), the classes weighted equally."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, settings: LinearSettings) -> None:
        import torch

        self._x, self._y, self._settings = x, y, settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._weight, self._bias = (part.requires_grad_() for part in _draw_parameters(x.shape[1], self._generator))
        num_malicious = float(y.sum())
        self._loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor((len(y) - num_malicious) / num_malicious))
        parameters = [self._weight, self._bias]
        self._optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import linear

        return self._loss(linear(x, self._weight, self._bias)[:, 0], y)

    def run_epoch(self) -> None:
        """All rows as they are where one batch holds them, else in batches drawn anew."""
        import torch

        batches = [slice(None)]
        if len(self._y) > self._settings.batch_size:
            batches = torch.randperm(len(self._y), generator=self._generator).split(self._settings.batch_size)
        for rows in batches:
            self._optimizer.zero_grad()
            self.loss(self._x[rows], self._y[rows]).backward()
            torch.nn.utils.clip_grad_norm_([self._weight, self._bias], self._settings.max_grad_norm)
            self._optimizer.step()

    def probe(self) -> LinearProbe:
        """The parameters as they are now."""
        return LinearProbe(weight=self._weight.detach()[0].numpy().copy(), bias=float(self._bias.detach()[0]))


SPEC = ClassifierSpec(
    name="linear",
    choice="linear",
    features=("first_layer_b", "all_layers"),
    fit=lambda data, settings: cross_fit_linear(data.samples.features, data.samples.labels, data.held_out, settings),
    load=LinearProbe.load,
    num_folds=1,
    target_fpr=None,
)
