"""In which direction an adapter unlearns each of some tasks: what an update does to a task is a dot product, to first order.

Shapes: D values of an adapter, in order of name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from actors.data.encoding import Batch
from actors.local_training import num_supervised, response_loss_sum
from actors.model.adapted import AdaptedModel
from actors.state_vector import StateVector


@dataclass(frozen=True, slots=True)
class TaskGradients:
    """The gradient of each task's mean loss of an answer under one adapter."""

    vectors: Sequence[torch.Tensor]
    """(D,) float32 each, on the CPU; nats per answer."""
    answer_losses: Sequence[float]
    """Mean negative log-likelihood of an answer of each task, nats."""
    loss: float
    """Of all answers, nats per token."""

    @classmethod
    def at(cls, adapter: Mapping[str, torch.Tensor], model: AdaptedModel, tasks: Sequence[Sequence[Batch]]) -> TaskGradients:
        """A forward and a backward pass over every task's rows, at least one of each task, on the model's device."""
        model.load_adapter(adapter)
        layout, parameters = StateVector.of(adapter), model.adapter_parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None
        vectors, losses = [], []
        for batches in tasks:
            number = sum(batch.input_ids.shape[0] for batch in batches)
            losses.append(math.fsum(_backward(model, batch, number) for batch in batches))
            vectors.append(layout.pack({name: _taken(parameter) for name, parameter in parameters.items()}))
        rows = [sum(batch.input_ids.shape[0] for batch in batches) for batches in tasks]
        tokens = sum(num_supervised(batch) for batches in tasks for batch in batches)
        total = math.fsum(loss * number for loss, number in zip(losses, rows, strict=True))
        return cls(vectors=vectors, answer_losses=losses, loss=total / tokens)

    def harm(self, delta_D: torch.Tensor) -> tuple[float, float]:
        """What an update does to the task that it harms most, in float64.

        Returns:
            By how much it raises the task's loss of an answer to first order, nats; and the cosine between the gradient of that
            loss and the update, 0 where one of them is 0.

        Example: gradients (1, 2) and (0, 1), update (0.5, 0.25): rises 1 and 0.25, so 1 and 1 / (sqrt(5) sqrt(0.3125)) = 0.8.
        """
        delta_D = delta_D.double()
        rises = [float(vector_D.double() @ delta_D) for vector_D in self.vectors]
        worst = max(range(len(rises)), key=rises.__getitem__)
        length = float(self.vectors[worst].double().norm() * delta_D.norm())
        return rises[worst], rises[worst] / length if length else 0.0


def _backward(model: AdaptedModel, batch: Batch, number: int) -> float:
    """Add a batch's part of the gradient of the mean over so many answers; returns its part of that mean."""
    loss = response_loss_sum(model, batch) / number
    loss.backward()
    return loss.item()


def _taken(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The parameter's gradient on the CPU; it has none afterwards."""
    gradient, parameter.grad = parameter.grad, None
    return (torch.zeros_like(parameter) if gradient is None else gradient).detach().float().cpu()
