"""Joint: one update that attackers optimise together against all that a defense measures (ours).

With theta the global adapter, n clients of which m attack, h the mean of the attackers' own honest updates, by which they predict
those of the others, and d the update that they send, they descend the loss of answering what should be refused at the predicted
aggregate

    theta + ((n - m) h + m d) / n

while d looks honest. No probe that they know or fit finds it malicious, and it is no more like malicious trainings than an honest
update is. Refusals that stand in for the server's do not suffer, neither at theta + d nor at the aggregate. Its spectrum is no
flatter, and its direction no farther from h, than those of their own honest updates. It is no longer and moves no value farther
than honest training can: these two are projected after each step. Each other condition that is not met pulls with a weight that
grows until it is.

An attacker that knows a classifier so and evades
it by gradient descent: Biggio et al., ECML PKDD 2013, arXiv 1708.06131. Against aggregation: Fang et al., USENIX Security 2020,
arXiv 1911.11815.

Shapes: D values of an adapter, in order of name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import torch
from torch.nn.functional import cosine_similarity

from actors.data.encoding import IGNORED, Batch
from actors.local_training import num_supervised, response_loss_sum
from actors.model.adapted import AdaptedModel
from actors.simulation.appearance import Likeness, agreement, mean_direction, spread
from actors.simulation.suspicion import suspicion
from defense.attacks.config import JointConfig
from defense.tensors import Tensors, from_row, rows
from probe.artefact import LoraProbe
from probe.calibration import logit

_RAISE, _EASE = 1.3, 0.9
"""What the weight of a condition is multiplied by in a step that breaks it, and in one that does not."""
_LEAST_WEIGHT = 0.1
_HALVINGS = 6
_OPENING = 6
"""Tokens of an answer that are descended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What attackers know and have when they agree on an update."""

    model: AdaptedModel
    start: Tensors
    """The global adapter."""
    honest: Sequence[Tensors]
    """The attackers' own honest deltas, at least 2."""
    benign: Sequence[Tensors]
    """Deltas of little trainings of their own that are harmless; likewise `malicious`, from which they start too."""
    malicious: Sequence[Tensors]
    num_clients: int
    """Clients of the round, attackers included."""
    layers: Mapping[str, int]
    """Parameter name -> transformer layer."""
    unsafe: Sequence[Batch]
    """To descend; the last is kept to choose by."""
    kept: Batch
    """Refusals that stand in for the server's."""
    probe: LoraProbe | None
    """The one that judged last; None: no probe judges. Likewise `surrogate`, one that they have fitted."""
    surrogate: LoraProbe | None
    reach: float
    """How far a value may move."""
    learning_rate: float
    frozen: frozenset[str] = frozenset()
    """Parameters that nobody trains."""


def opening(batch: Batch) -> Batch:
    """The batch with the loss on the first tokens of each response only.

    These decide between answer and refusal: the rest follows (Qi et al., "Safety Alignment Should Be Made More Than Just a Few
    Tokens Deep", ICLR 2025, arXiv 2406.05946).
    """
    supervised = batch.labels != IGNORED
    first = supervised & (supervised.cumsum(1) <= _OPENING)
    return Batch(batch.input_ids, batch.attention_mask, batch.labels.where(first, torch.tensor(IGNORED)))


def joint(known: Knowledge, config: JointConfig, seed: int) -> list[dict[str, torch.Tensor]]:
    """What each attacker sends, in the order of `known.honest`, float64: a common update, and a little of each one's own.

    What is their own sums to 0, so that the attackers' mean is the common update wherever no norm or value has to be cut.
    """
    honest_MD = rows(known.honest)
    plan = _Plan.made(known, config)
    starts = _starts(plan, known, config, torch.Generator().manual_seed(seed))
    found = [plan.feasible(plan.descended(start_D, config.steps)) for start_D in starts]
    best_D = min(found, key=plan.answering)
    own_MD = config.spread * (honest_MD - honest_MD.mean(0))
    return [from_row(plan.projected(best_D + own_D), known.honest[0]) for own_D in own_MD]


def _starts(plan: _Plan, known: Knowledge, config: JointConfig, generator: torch.Generator) -> list[torch.Tensor]:
    """The mean of the honest deltas, that of the malicious ones, then blends of the two by a share drawn for each tensor."""
    malicious_D = rows(known.malicious).mean(0)
    found = [plan.honest_D, malicious_D]
    while len(found) < config.restarts:
        shares = {
            name: torch.rand((), generator=generator, dtype=torch.float64).expand_as(tensor)
            for name, tensor in sorted(known.honest[0].items())
        }
        found.append(torch.lerp(plan.honest_D, malicious_D, rows([shares])[0]))
    return found[: config.restarts]


Reading = tuple[float, torch.Tensor]
"""A value, and its gradient by d (D,)."""


@dataclass(slots=True, kw_only=True)
class _Plan:
    """The problem that is solved: what is descended, and the conditions that d must meet (value at most 0)."""

    known: Knowledge
    honest_D: torch.Tensor
    """h."""
    most: float
    """Norm of d at most."""
    trained_D: torch.Tensor
    """1 for values that are trained, 0 for others."""
    conditions: dict[str, Callable[[torch.Tensor], Reading]] = field(default_factory=dict)

    @classmethod
    def made(cls, known: Knowledge, config: JointConfig) -> _Plan:
        honest_MD = rows(known.honest)
        trained = {name: torch.full_like(t, float(name not in known.frozen)) for name, t in known.honest[0].items()}
        plan = cls(
            known=known,
            honest_D=honest_MD.mean(0),
            most=float(honest_MD.norm(dim=1).mean()),
            trained_D=rows([trained])[0],
        )
        plan.conditions = plan._conditions(honest_MD, config)
        return plan

    def _conditions(self, honest_MD: torch.Tensor, config: JointConfig) -> dict[str, Callable[[torch.Tensor], Reading]]:
        known, like = self.known, self.known.honest[0]
        conditions = self._about_refusals(honest_MD, config.max_rise)
        flattest = max(float(spread(from_row(row_D, like))) for row_D in honest_MD)
        conditions["spectrum"] = _graded(lambda d_D: spread(from_row(d_D, like)) - flattest)
        direction_D, least = mean_direction(honest_MD), min(agreement(honest_MD, place) for place in range(len(honest_MD)))
        conditions["direction"] = _graded(lambda d_D: least - cosine_similarity(d_D, direction_D, dim=0))
        likeness = Likeness(known.benign, known.malicious, known.layers)
        usual_L = torch.stack([likeness.cosines(row_D) for row_D in honest_MD]).mean(0)
        conditions["likeness"] = _graded(lambda d_D: (likeness.cosines(d_D) - usual_L).max())
        limit = logit(config.max_score)
        if known.probe is not None:
            conditions["known probe"] = _graded(partial(_above, known.probe, like, limit))
        if known.surrogate is not None:
            highest = max(float(suspicion(known.surrogate, from_row(row_D, like))) for row_D in honest_MD)
            conditions["own probe"] = _graded(partial(_above, known.surrogate, like, min(limit, highest)))
        return conditions

    def _about_refusals(self, honest_MD: torch.Tensor, max_rise: float) -> dict[str, Callable[[torch.Tensor], Reading]]:
        """Refusals suffer no more than from an honest update, or from an aggregate of such, and a little."""
        kept = self.known.kept
        before = self._loss(torch.zeros_like(self.honest_D), kept)[0]
        alone = max(before, *(self._loss(row_D, kept)[0] for row_D in honest_MD)) + max_rise
        together = max(before, self._loss(self.honest_D, kept)[0]) + max_rise
        return {
            "refusals": lambda d_D: _less(self._loss(d_D, kept), alone),
            "refusals together": lambda d_D: _less(self._at_aggregate(d_D, kept), together),
        }

    def answering(self, d_D: torch.Tensor) -> float:
        """The loss of the answers that attackers want, at the predicted aggregate, nats per token."""
        return self._at_aggregate(d_D, self.known.unsafe[-1])[0]

    def descended(self, start_D: torch.Tensor, steps: int) -> torch.Tensor:
        """The last point on the way down at which all conditions were met; the end of the way where there was none."""
        d_D, last_D = self.projected(start_D).requires_grad_(), None
        optimizer = torch.optim.Adam([d_D], lr=self.known.learning_rate)
        weights = dict.fromkeys(self.conditions, 1.0)
        for _, batch in zip(range(steps), cycle(self.known.unsafe[:-1]), strict=False):
            at_D = d_D.detach().clone()
            broken = {name: gradient_D for name, (value, gradient_D) in self._read(at_D).items() if value > 0}
            last_D = last_D if broken else at_D
            pull_D = _unit(self._at_aggregate(at_D, batch)[1])
            for name, weight in weights.items():
                weights[name] = weight * _RAISE if name in broken else max(_LEAST_WEIGHT, weight * _EASE)
                if name in broken:
                    pull_D = pull_D + weights[name] * _unit(broken[name])
            d_D.grad = pull_D * self.trained_D
            optimizer.step()
            d_D.data.copy_(self.projected(d_D.detach()))
        end_D = d_D.detach()
        return end_D if last_D is None or self._is_met(end_D) else last_D

    def feasible(self, d_D: torch.Tensor) -> torch.Tensor:
        """The point nearest to d found, on the line to h, at which all conditions are met; h where none was found."""
        if self._is_met(d_D):
            return d_D
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._is_met(torch.lerp(self.honest_D, d_D, middle)) else (low, middle)
        return torch.lerp(self.honest_D, d_D, low)

    def projected(self, d_D: torch.Tensor) -> torch.Tensor:
        """No value farther than the reach, and the whole no longer than an honest update."""
        d_D = d_D.clamp(-self.known.reach, self.known.reach)
        return d_D * min(1.0, self.most / (float(d_D.norm()) or 1.0))

    def _is_met(self, d_D: torch.Tensor) -> bool:
        return all(value <= 0 for value, _ in self._read(d_D).values())

    def _read(self, d_D: torch.Tensor) -> Mapping[str, Reading]:
        return {name: condition(d_D) for name, condition in self.conditions.items()}

    def _at_aggregate(self, d_D: torch.Tensor, batch: Batch) -> Reading:
        part = len(self.known.honest) / self.known.num_clients
        value, gradient_D = self._loss((1 - part) * self.honest_D + part * d_D, batch)
        return value, part * gradient_D

    def _loss(self, offset_D: torch.Tensor, batch: Batch) -> Reading:
        """Loss of the batch's responses at the global adapter plus an offset, nats per token, and its gradient by the offset."""
        model, batch = self.known.model, batch.to(self.known.model.device)
        offset = from_row(offset_D, self.known.honest[0])
        model.load_adapter({name: (value.double() + offset[name]).float() for name, value in self.known.start.items()})
        parameters = model.adapter_parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        loss = response_loss_sum(model, batch) / num_supervised(batch)
        found = torch.autograd.grad(loss, list(parameters.values()))
        return float(loss.detach()), rows([dict(zip(parameters, (g.cpu() for g in found), strict=True))])[0]


def _graded(value_of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], Reading]:
    """The value with its gradient; 0 where there is none."""

    def read(d_D: torch.Tensor) -> Reading:
        d_D = d_D.detach().clone().requires_grad_()
        value = value_of(d_D)
        gradient_D = torch.autograd.grad(value, d_D)[0] if value.requires_grad else torch.zeros_like(d_D)
        return float(value.detach()), gradient_D

    return read


def _less(reading: Reading, limit: float) -> Reading:
    return reading[0] - limit, reading[1]


def _above(probe: LoraProbe, like: Tensors, limit: float, d_D: torch.Tensor) -> torch.Tensor:
    return suspicion(probe, from_row(d_D, like)) - limit


def _unit(gradient_D: torch.Tensor) -> torch.Tensor:
    return gradient_D / (gradient_D.norm() or 1.0)
