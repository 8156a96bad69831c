"""The linear LoRA-Probe: one layer d -> 1 with a sigmoid (METHOD.md section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from probe.config import LinearRecipe


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """P(malicious) = sigmoid(weight . x + bias)."""

    weight: np.ndarray
    """(d,) float32."""
    bias: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (n,) float64 of features (n, d).

        Each row is reduced by itself in float64 in a fixed order, so a score does not depend on what else is scored
        in the same call.
        """
        weight = self.weight.astype(np.float64)
        logits = [float(np.add.reduce(row.astype(np.float64) * weight)) + self.bias for row in features]
        return np.array([_sigmoid(logit) for logit in logits])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fit_linear(features: np.ndarray, labels: np.ndarray, clients: np.ndarray, recipe: LinearRecipe) -> LinearProbe:
    """Fit by AdamW on the weighted cross-entropy, with early stopping on held-out clients.

    Args:
        features: (n, d) float32, one row per local step.
        labels: (n,) 1 for malicious, 0 for benign.
        clients: (n,) the client each row comes from; validation rows come from clients of their own.

    Raises:
        ValueError: one class only, too few clients of a class to hold any out, or a feature that is not finite.
    """
    if not np.isfinite(features).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(features)))
        raise ValueError(f"feature value {column} of sample {row} (client {clients[row]}) is {features[row, column]}")
    validation = _validation_rows(labels, clients, recipe)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels).float()
    train, held = torch.from_numpy(np.flatnonzero(~validation)), torch.from_numpy(np.flatnonzero(validation))
    num_malicious = float(y[train].sum())
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor((len(train) - num_malicious) / num_malicious))
    generator = torch.Generator().manual_seed(recipe.seed)
    best = _descend(_draw_layer(x.shape[1], generator), loss_of, x, y, train, held, recipe, generator)
    return LinearProbe(weight=best["weight"][0].numpy(), bias=float(best["bias"][0]))


def _validation_rows(labels: np.ndarray, clients: np.ndarray, recipe: LinearRecipe) -> np.ndarray:
    """Rows of a seeded share of the clients of each class, at least one client each."""
    rng = np.random.default_rng(recipe.seed)
    chosen: list = []
    for label, name in ((0, "benign"), (1, "malicious")):
        members = np.unique(clients[labels == label])
        if len(members) < 2:
            raise ValueError(f"the probe needs at least 2 {name} clients to train on, got {len(members)}")
        chosen += list(rng.permutation(members)[: max(1, round(recipe.validation_share * len(members)))])
    validation = np.isin(clients, chosen)
    for label, name in ((0, "benign"), (1, "malicious")):
        if not (labels[~validation] == label).any():
            raise ValueError(
                f"probe.validation_share={recipe.validation_share:g} holds out every {name} client; collect more, or lower it"
            )
    return validation


def _draw_layer(width: int, generator: torch.Generator) -> torch.nn.Linear:
    """A linear layer with torch's usual initialisation, drawn without the global random state."""
    layer, bound = torch.nn.utils.skip_init(torch.nn.Linear, width, 1), width**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _descend(layer, loss_of, x, y, train, held, recipe: LinearRecipe, generator: torch.Generator) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    best, best_loss, stale = _copy(layer), math.inf, 0
    for _ in range(recipe.max_epochs):
        for rows in train[torch.randperm(len(train), generator=generator)].split(recipe.batch_size):
            loss = loss_of(layer(x[rows])[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), recipe.max_grad_norm)
            optimizer.step()
        with torch.no_grad():
            held_loss = float(loss_of(layer(x[held])[:, 0], y[held]))
        if held_loss < best_loss - recipe.min_improvement:
            best, best_loss, stale = _copy(layer), held_loss, 0
        else:
            stale += 1
            if stale >= recipe.patience:
                break
    return best


def _copy(layer: torch.nn.Linear) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}
