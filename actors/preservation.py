"""The server's refusals, and what keeps them: one half measures, the gradient of the other mends (`defense/preservation.py`).

Were an adapter measured on the rows that mend it, the measurement would show what it has memorised. For the same reason every
round draws anew from both halves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from actors.data.encoding import Batch, Encoded, collate
from actors.errors import DataError
from actors.local_training import num_supervised, response_loss_sum, response_losses
from actors.model.adapted import AdaptedModel
from actors.seeding import stream
from actors.wire import decode_tensors
from defense.admission.checks import delta_norm
from defense.preservation import LEAST_RISE, LEAST_ROWS, standard_error, step

_MEASURED_AT_ONCE, _MENDED_AT_ONCE = 64, 8
"""Rows in a forward pass, and in a forward and backward pass, which keeps its activations."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a round's measuring rows cost under an adapter."""

    loss: float
    """Negative log-likelihood, nats per token."""
    error: float
    """Standard error of its rise over the initial adapter's, from the rows' own rises: how far it would be another one for other
    refusals of the kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """An adapter whose refusals are as likely as before the first round, as far as the steps went."""

    state: Tensors
    measured: Measured
    """After the last step."""
    num_steps: int
    """0: the adapter is the given one."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Refusals, with what each costs under the adapter that every run begins with."""

    rows: Sequence[Encoded]
    losses: Sequence[float]
    """Summed negative log-likelihood of each response, nats."""

    @property
    def tokens(self) -> list[int]:
        return [row.num_supervised for row in self.rows]

    @property
    def mean_tokens(self) -> float:
        return sum(self.tokens) / len(self.rows)

    @property
    def mean(self) -> float:
        """Nats per token."""
        return math.fsum(self.losses) / sum(self.tokens)

    @property
    def error(self) -> float:
        """Standard error of `mean`."""
        return standard_error(self.losses, self.tokens)

    def chosen(self, indices: Sequence[int]) -> _Rows:
        return _Rows([self.rows[i] for i in indices], [self.losses[i] for i in indices])


class Refusals:
    """All rows that the server owns, in two halves."""

    def __init__(self, model: AdaptedModel, rows: Sequence[Encoded], per_round: int, seed: int) -> None:
        """Deal the rows in turns, so that both halves have of every kind where the file has them one after the other.

        Args:
            per_round: Rows that a round draws, half of them from each half; all where there are no more.
            seed: The run's, from which the draws follow.

        Raises:
            DataError: fewer than `LEAST_ROWS`.
        """
        if len(rows) < LEAST_ROWS:
            raise DataError(f"{len(rows)} refusals are too few to measure and to mend by; give {LEAST_ROWS} or more")
        self._model, self._half, self._seed = model, max(2, per_round // 2), seed
        self._parts = rows[0::2], rows[1::2]

    @property
    def reference(self) -> float:
        """Loss of all measuring rows under the adapter that every run begins with, nats per token."""
        return self._initial[0].mean

    @property
    def error(self) -> float:
        """Standard error of that loss over the rows of a draw."""
        measuring = self._initial[0]
        return measuring.error * math.sqrt(len(measuring.rows) / min(self._half, len(measuring.rows)))

    @property
    def tokens(self) -> float:
        """Mean tokens of a measuring row's response."""
        return self._initial[0].mean_tokens

    def drawn(self, round_index: int) -> RoundRefusals:
        """The rows of one round."""
        rng = stream(self._seed, "refusals", round_index)
        drawn = [
            rows.chosen(sorted(rng.choice(len(rows.rows), min(self._half, len(rows.rows)), replace=False).tolist()))
            for rows in self._initial
        ]
        return RoundRefusals(self._model, *drawn)

    @cached_property
    def _initial(self) -> tuple[_Rows, _Rows]:
        """Both halves under the initial adapter."""
        self._model.load_adapter(decode_tensors(self._model.initial_adapter()))
        measuring, mending = (_Rows(rows, self._losses(rows)) for rows in self._parts)
        return measuring, mending

    def _losses(self, rows: Sequence[Encoded]) -> list[float]:
        found = [loss for batch in _batches(rows, _MEASURED_AT_ONCE) for loss in response_losses(self._model, self._moved(batch))]
        by_row = dict(zip(_by_length(rows), found, strict=True))
        return [by_row[i] for i in range(len(rows))]

    def _moved(self, batch: Batch) -> Batch:
        return batch.to(self._model.device)


class RoundRefusals:
    """The rows that a round has drawn, and what they cost under adapters."""

    def __init__(self, model: AdaptedModel, measuring: _Rows, mending: _Rows) -> None:
        self._model, self._measuring, self._mending = model, measuring, mending
        self._measured = [batch.to(model.device) for batch in _batches(measuring.rows, _MEASURED_AT_ONCE)]
        order = _by_length(measuring.rows)  # that of the rows in the batches
        self._before, self._tokens = [measuring.losses[i] for i in order], [measuring.tokens[i] for i in order]

    @property
    def reference(self) -> float:
        """Loss of the measuring rows under the adapter that every run begins with, nats per token."""
        return self._measuring.mean

    @property
    def tokens(self) -> float:
        """Mean tokens of a measuring row's response."""
        return self._measuring.mean_tokens

    def measured(self, state: Tensors) -> Measured:
        """What the measuring rows cost under an adapter."""
        self._model.load_adapter(state)
        losses = [loss for batch in self._measured for loss in response_losses(self._model, batch)]
        rises = [loss - before for loss, before in zip(losses, self._before, strict=True)]
        return Measured(loss=math.fsum(losses) / sum(self._tokens), error=standard_error(rises, self._tokens))

    def mended(
        self, state: Tensors, before: Tensors, measured: Measured, *, max_steps: int, frozen: Collection[str] = ()
    ) -> Mended:
        """Bring the loss back to the reference, as far as `max_steps` go.

        The first step follows any rise, which it is in proportion to; the others follow one beyond its standard error. A step
        that does not lower the loss of the measuring rows is not taken.

        Args:
            state: The adapter that a round aggregated.
            before: The adapter that the round began with; no step is longer than the way from it to `state`.
            measured: `measured(state)`.
            frozen: Parameters that keep their value.
        """
        most, num_steps = delta_norm({name: state[name] - before[name] for name in state}), 0
        while num_steps < max_steps and (rise := measured.loss - self.reference) > max(
            LEAST_RISE, measured.error if num_steps else 0.0
        ):
            other_rise, gradient = self._gradient(state, frozen)
            change = step(gradient, max(rise, other_rise), most)
            moved = {name: (state[name].double() + change[name]).float() if name in change else state[name] for name in state}
            after = self.measured(moved)
            if not after.loss < measured.loss:
                break
            state, measured, num_steps = moved, after, num_steps + 1
        return Mended(state=state, measured=measured, num_steps=num_steps)

    def _gradient(self, state: Tensors, frozen: Collection[str]) -> tuple[float, dict[str, torch.Tensor]]:
        """Rise of the mending rows' loss over the reference, and the gradient of that loss on the CPU."""
        model = self._model
        model.load_adapter(state)
        free = {name: parameter for name, parameter in model.adapter_parameters.items() if name not in frozen}
        for name, parameter in model.adapter_parameters.items():
            parameter.grad = None
            parameter.requires_grad_(name in free)
        batches = _batches(self._mending.rows, _MENDED_AT_ONCE)
        total, loss = sum(map(num_supervised, batches)), 0.0
        for batch in batches:
            part = response_loss_sum(model, batch.to(model.device)) / total
            part.backward()
            loss += part.item()
        gradient = {name: parameter.grad.detach().cpu() for name, parameter in free.items() if parameter.grad is not None}
        for parameter in free.values():
            parameter.grad = None
        return loss - self._mending.mean, gradient


def _by_length(rows: Sequence[Encoded]) -> list[int]:
    """Indices of the rows in order of length and index."""
    return sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))


def _batches(rows: Sequence[Encoded], size: int) -> list[Batch]:
    """Rows of similar length together, in order of `_by_length`."""
    ordered = [rows[i] for i in _by_length(rows)]
    return [collate(ordered[start : start + size]) for start in range(0, len(ordered), size)]
