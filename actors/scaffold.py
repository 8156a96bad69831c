"""SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378, algorithm 1): local steps that do not drift apart.

A control variate is a gradient. Client i has one, c_i, and c is their mean over the clients. Every local step of the client
corrects its gradient g to g + c - c_i, so clients with different data move alike.

Ours differs in the optimizer: AdamW receives the corrected gradient. The paper's c_i+ (option II) is c_i - c + (x - y) / (K eta),
for x and y the adapter before and after K steps; under its plain SGD that is the mean of the K gradients g before correction.
AdamW's x - y has no such unit, so c_i+ is that mean itself. It is taken after clipping, so its norm is at most
`training.max_grad_norm`, and includes FedProx's term, which is part of the client's loss. A client needs c - c_i only and keeps
nothing from round to round.

The server counts a client by its weight: c_i <- c_i + w_i (c_i+ - c_i). So c moves by 1/N of the sum of those changes, as in the
paper for w_i = 1. In any number of rounds, one client's part in c has a norm of at most max_grad_norm / N.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from actors.wire import decode_tensors, encode_tensors

Gradient = Mapping[str, torch.Tensor]
"""PEFT parameter name -> float32 CPU tensor, for every trained parameter."""

CLIPPING_SLACK = 1.01
"""Factor of `training.max_grad_norm` that an honest control variate's norm keeps to: clipping rounds in float32."""


class Correction:
    """A client's part in one round: corrects its gradients, and takes the mean of the uncorrected ones."""

    def __init__(self, difference: Gradient) -> None:
        """`difference`: c - c_i."""
        self._difference = dict(difference)
        self._sums = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in difference.items()}
        self._num_steps = dict.fromkeys(difference, 0)

    def begin(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Begin a training of these parameters, and forget what an earlier training left of them.

        Raises:
            ValueError: a parameter has no correction.
        """
        if missing := sorted(set(parameters) - set(self._difference)):
            raise ValueError(f"the correction has no {missing[0]}, which is trained; send c - c_i of every trained parameter")
        for name, parameter in parameters.items():
            self._difference[name] = self._difference[name].to(parameter.device)
            self._sums[name] = torch.zeros_like(parameter, dtype=torch.float64)
            self._num_steps[name] = 0

    @torch.no_grad()
    def apply(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Record the gradients of a step, then correct them in place."""
        for name, gradient in gradients.items():
            self._sums[name] += gradient
            self._num_steps[name] += 1
            gradient.add_(self._difference[name])

    def control_variate(self) -> dict[str, torch.Tensor]:
        """c_i+, the mean gradient; zeros without training."""
        return {name: (total / max(1, self._num_steps[name])).float().cpu() for name, total in self._sums.items()}


@dataclass(frozen=True, slots=True)
class ControlVariates:
    """The server's side: c_i of every client that has been counted."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every trained parameter."""
    own: Mapping[str, Gradient] = field(default_factory=dict)
    """Client id -> c_i; 0 for all other clients."""

    def mean(self, num_clients: int) -> dict[str, torch.Tensor]:
        """c over `num_clients` clients, in float64, summed in order of client id."""
        sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes.items()}
        for client_id in sorted(self.own):
            for name, total in sums.items():
                total += self.own[client_id][name]
        return {name: total / num_clients for name, total in sums.items()}

    def difference(self, client_id: str, mean: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """c - c_i, for c from `mean`."""
        own = self.own.get(client_id, {})
        return {name: (tensor - own.get(name, 0)).float() for name, tensor in mean.items()}

    def moved(self, received: Mapping[str, tuple[float, Gradient]]) -> ControlVariates:
        """The control variates after a round: c_i + w_i (c_i+ - c_i) for each client id -> (w_i, c_i+), computed in float64."""
        new = {client_id: self._moved(client_id, *given) for client_id, given in received.items()}
        return replace(self, own={**self.own, **new})

    def _moved(self, client_id: str, weight: float, control: Gradient) -> dict[str, torch.Tensor]:
        own, moved = self.own.get(client_id, {}), {}
        for name in self.shapes:
            before = own[name].double() if own else torch.zeros(self.shapes[name], dtype=torch.float64)
            moved[name] = (before + weight * (control[name].double() - before)).float()
        return moved

    def encode(self) -> bytes:
        """As safetensors, "client id/parameter name" -> tensor. Equal ones give equal bytes; empty ones give no bytes."""
        flat = {f"{client_id}/{name}": tensor for client_id, own in self.own.items() for name, tensor in own.items()}
        return encode_tensors(flat) if flat else b""

    def decoded(self, encoded: bytes) -> ControlVariates:
        """Those that `encode` encoded, for the same parameters."""
        own: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in decode_tensors(encoded).items() if encoded else ():
            client_id, _, name = key.rpartition("/")
            own.setdefault(client_id, {})[name] = tensor
        return replace(self, own=own)
