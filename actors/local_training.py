"""Local LoRA training as a function of a frozen base model, an adapter state and batches. No Ray, no files."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from actors.config import LocalOptimizerName, TrainingConfig
from actors.data.encoding import IGNORED, Batch
from actors.model.adapted import AdaptedModel
from actors.model.logits import logits_at
from actors.scaffold import Correction

_MOMENTUM = 0.9
"""Of sgd, which moves v <- 0.9 v + g and theta <- theta - lr v: ten equal gradients g move a value by 41.4 lr g."""


@dataclass(frozen=True, slots=True)
class LocalStep:
    """One optimizer step; the live adapter holds its result until the next step."""

    step: int
    """Counts from 1."""
    num_samples: int
    loss: float
    """Mean over the batch's supervised tokens, before the step, in nats."""


def train_adapter(
    model: AdaptedModel,
    start: Mapping[str, torch.Tensor],
    batches: Sequence[Batch],
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    optimizer: LocalOptimizerName = "adamw",
    proximal_mu: float = 0.0,
    correction: Correction | None = None,
    frozen: Collection[str] = (),
) -> Iterator[LocalStep]:
    """Train the adapter from `start`, a step per batch with fresh optimizer state, and report each step.

    The caller reads the state from `model.adapter_parameters` after each yield.

    Args:
        seed: Feeds dropout.
        proximal_mu: mu of FedProx (Li et al., MLSys 2020, arXiv 1812.06127). Its term mu/2 |theta - start|^2 is part of the loss,
            so its gradient is clipped with the rest; the reported loss does not include it.
        correction: SCAFFOLD's, added to the clipped gradient; None: no correction.
        frozen: Parameters that keep their start value.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    model.load_adapter(start)
    for name, parameter in model.adapter_parameters.items():
        parameter.grad = None  # a training that failed or was abandoned leaves its gradient behind
        parameter.requires_grad_(name not in frozen)
    trained = {name: parameter for name, parameter in model.adapter_parameters.items() if name not in frozen}
    parameters = list(trained.values())
    if correction is not None:
        correction.begin(trained)
    stepper = make_optimizer(optimizer, parameters, learning_rate, training.weight_decay)
    generator_devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=generator_devices):
        torch.manual_seed(seed)
        model.peft.train()
        try:
            for step, batch in enumerate(batches, start=1):
                loss = _backward(model, batch, training.micro_batch_size)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the training loss became {loss} at local step {step}; lower training.learning_rate"
                    )
                gradients = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
                if proximal_mu:
                    _pull_back(gradients, trained, start, proximal_mu)
                torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
                if correction is not None:
                    correction.apply(gradients)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
                yield LocalStep(step, batch.input_ids.shape[0], loss)
        finally:
            model.peft.eval()


def make_optimizer(
    name: LocalOptimizerName, parameters: Sequence[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A fresh optimizer.

    adamw: Loshchilov and Hutter (ICLR 2019), betas 0.9 and 0.999, decay decoupled from the gradient; the paper's.
    sgd: with Polyak's heavy-ball momentum (1964) at the usual 0.9.
    adagrad: Duchi, Hazan and Singer (JMLR 2011), algorithm 1 with diagonal matrices. No step is longer than AdamW's first.

    The latter two add weight_decay x theta to the clipped gradient.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=_MOMENTUM, weight_decay=weight_decay)
    return torch.optim.Adagrad(parameters, lr=learning_rate, weight_decay=weight_decay)


@torch.no_grad()
def _pull_back(
    gradients: Mapping[str, torch.Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
    start: Mapping[str, torch.Tensor],
    mu: float,
) -> None:
    """Add the gradient of mu/2 |theta - start|^2, which is mu (theta - start), in place."""
    for name, gradient in gradients.items():
        gradient.add_(parameters[name] - start[name].to(gradient.device), alpha=mu)


def _backward(model: AdaptedModel, batch: Batch, micro_batch_size: int | None) -> float:
    """Accumulate the gradient of the mean loss over the batch's supervised tokens; returns that loss."""
    num_tokens = num_supervised(batch)
    size = micro_batch_size or batch.input_ids.shape[0]
    total = 0.0
    for begin in range(0, batch.input_ids.shape[0], size):
        part = Batch(*(getattr(batch, name)[begin : begin + size] for name in Batch.__slots__)).to(model.device)
        loss = response_loss_sum(model, part) / num_tokens
        loss.backward()
        total += loss.item()
    return total


@torch.no_grad()
def mean_response_loss(model: AdaptedModel, batches: Iterable[Batch]) -> float:
    """Negative log-likelihood of the responses under the loaded adapter, nats per supervised token."""
    total, num_tokens = 0.0, 0
    for batch in batches:
        total += response_loss_sum(model, batch).item()
        num_tokens += num_supervised(batch)
    return total / num_tokens


def num_supervised(batch: Batch) -> int:
    """Tokens that carry loss; nothing predicts the first."""
    return int((batch.labels[:, 1:] != IGNORED).sum())


@torch.no_grad()
def response_losses(model: AdaptedModel, batch: Batch) -> list[float]:
    """Summed negative log-likelihood of each row's supervised tokens under the loaded adapter, nats."""
    losses, supervised = _token_losses(model, batch)
    return losses.new_zeros(supervised.shape).masked_scatter(supervised, losses).sum(dim=1).tolist()


def response_loss_sum(model: AdaptedModel, batch: Batch) -> torch.Tensor:
    """Summed negative log-likelihood of the supervised tokens, in nats; a 0-d float32 tensor."""
    return _token_losses(model, batch)[0].sum()


def _token_losses(model: AdaptedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each supervised token, (n,), row after row, and where these are, (rows, time - 1) bool."""
    supervised = batch.labels[:, 1:] != IGNORED
    predicting = torch.nn.functional.pad(supervised, (0, 1))  # each token is predicted at the one before it
    logits = logits_at(model.peft, predicting, input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    losses = torch.nn.functional.cross_entropy(logits.float(), batch.labels[:, 1:][supervised], reduction="none")
    return losses, supervised
