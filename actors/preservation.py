"""The server's refusals, and what keeps them: one half measures, the gradient of the other mends (`defense/preservation.py`).

Were an adapter measured on the rows that mend it, the measurement would show what it has memorised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from actors.data.encoding import Batch, Encoded, collate
from actors.errors import DataError
from actors.local_training import mean_response_loss, num_supervised, response_loss_sum
from actors.model.adapted import AdaptedModel
from actors.wire import decode_tensors
from defense.admission.checks import delta_norm
from defense.preservation import LEAST_ROWS, standard_error, step

_MEASURED_AT_ONCE, _MENDED_AT_ONCE = 64, 8
"""Rows in a forward pass, and in a forward and backward pass, which keeps its activations."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """An adapter whose refusals are as likely as before the first round, as far as the steps went."""

    state: Tensors
    loss: float
    """Of the measured half after the last step, nats per token."""
    num_steps: int
    """0: the adapter is the given one."""


class Refusals:
    """The rows in two halves, and their losses under the adapter that the model holds."""

    def __init__(self, model: AdaptedModel, rows: Sequence[Encoded]) -> None:
        """Deal the rows in turns, so that both halves have of every kind where the file has them one after the other.

        Raises:
            DataError: fewer than `LEAST_ROWS`.
        """
        if len(rows) < LEAST_ROWS:
            raise DataError(f"{len(rows)} refusals are too few to measure and to mend by; give {LEAST_ROWS} or more")
        self._model = model
        self._measured, self._mending = rows[0::2], _batches(rows[1::2], _MENDED_AT_ONCE)
        self._batches = [batch.to(model.device) for batch in _batches(self._measured, _MEASURED_AT_ONCE)]

    def loss(self, state: Tensors) -> float:
        """Negative log-likelihood of the measured half under an adapter, nats per token."""
        self._model.load_adapter(state)
        return mean_response_loss(self._model, self._batches)

    @property
    def reference(self) -> float:
        """Loss of the measured half under the adapter that every run begins with, nats per token."""
        return self._references[0]

    @property
    def error(self) -> float:
        """Standard error of that loss, nats per token."""
        return self._references[1]

    @property
    def tokens(self) -> float:
        """Mean tokens of a refusal of the measured half."""
        return sum(map(num_supervised, self._batches)) / len(self._measured)

    def mended(self, state: Tensors, before: Tensors, loss: float, *, max_steps: int, frozen: Collection[str] = ()) -> Mended:
        """Bring the loss back to the reference, as far as `max_steps` go.

        The first step follows any rise, which it is in proportion to; the others follow one beyond the standard error. A step
        that does not lower the loss of the measured half is not taken.

        Args:
            state: The adapter that a round aggregated.
            before: The adapter that the round began with; no step is longer than the way from it to `state`.
            loss: `loss(state)`.
            frozen: Parameters that keep their value.
        """
        most, num_steps = delta_norm({name: state[name] - before[name] for name in state}), 0
        while num_steps < max_steps and (rise := loss - self.reference) > (self.error if num_steps else 0):
            other_rise, gradient = self._gradient(state, frozen)
            change = step(gradient, max(rise, other_rise), most)
            moved = {name: (state[name].double() + change[name]).float() if name in change else state[name] for name in state}
            new_loss = self.loss(moved)
            if not new_loss < loss:
                break
            state, loss, num_steps = moved, new_loss, num_steps + 1
        return Mended(state=state, loss=loss, num_steps=num_steps)

    @cached_property
    def _references(self) -> tuple[float, float, float]:
        """Under the initial adapter: the measured half's loss and its standard error, and the other half's loss."""
        initial = decode_tensors(self._model.initial_adapter())
        loss = self.loss(initial)
        with torch.no_grad():
            rows = [collate([row]).to(self._model.device) for row in self._measured]
            error = standard_error([response_loss_sum(self._model, row).item() for row in rows], list(map(num_supervised, rows)))
        return loss, error, mean_response_loss(self._model, (batch.to(self._model.device) for batch in self._mending))

    def _gradient(self, state: Tensors, frozen: Collection[str]) -> tuple[float, dict[str, torch.Tensor]]:
        """Rise of the other half's loss over the reference, and the gradient of that loss on the CPU."""
        reference, model = self._references[2], self._model
        model.load_adapter(state)
        free = {name: parameter for name, parameter in model.adapter_parameters.items() if name not in frozen}
        for name, parameter in model.adapter_parameters.items():
            parameter.grad = None
            parameter.requires_grad_(name in free)
        total, loss = sum(map(num_supervised, self._mending)), 0.0
        for batch in self._mending:
            part = response_loss_sum(model, batch.to(model.device)) / total
            part.backward()
            loss += part.item()
        gradient = {name: parameter.grad.detach().cpu() for name, parameter in free.items() if parameter.grad is not None}
        for parameter in free.values():
            parameter.grad = None
        return loss - reference, gradient


def _batches(rows: Sequence[Encoded], size: int) -> list[Batch]:
    """Rows of similar length together."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return [collate(ordered[start : start + size]) for start in range(0, len(ordered), size)]
