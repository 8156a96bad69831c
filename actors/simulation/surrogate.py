"""A probe of the attackers' own: fitted as the server refits its probe, to little trainings whose labels they know.

The server's reference clients train on families that no client has. The direction in which a training on unsafe rows moves an
adapter is much the same for other families, so attackers learn it from their own data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.config import TrainingConfig
from actors.data.dataset import Dataset
from actors.data.encoding import Encoded
from actors.local_training import train_adapter
from actors.messages import StepDelta
from actors.model.adapted import AdaptedModel
from actors.refit import ReferenceSamples, refit
from actors.seeding import stream, torch_seed
from defense.tensors import Tensors
from probe.artefact import LoraProbe
from probe.meta import ProbeMeta
from probe.samples import ReferenceLabel

_SHARES = {False: (0.0, 1.0, 0.0, 0.2), True: (1.0, 0.5, 1.0, 0.5)}
"""Whether malicious -> share of restricted rows in the first training, the second and so on, in turn: refused ones, or answered
ones. The others are benign. As the server's reference clients have them (`actors/world/references.py`)."""
_PARTS = 5
"""A training draws its rows from one part in so many of an attacker's rows, which come in order of family: it has a family or
two, as a reference client of the server has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one attacker trains on, each in order of family."""

    benign: Dataset
    unsafe: Dataset
    refused: Dataset
    """The unsafe prompts with refusals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LittleTraining:
    """One training with a known label."""

    number: int
    malicious: bool
    deltas: Sequence[Tensors]
    """What it has moved the adapter by, after each of its steps; float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LittleTrainings:
    """How attackers train with labels."""

    model: AdaptedModel
    start: Tensors
    rows: Sequence[Rows]
    """Of each attacker."""
    training: TrainingConfig
    learning_rate: float
    frozen: frozenset[str]
    """Parameters that nobody trains."""
    seed: int
    round_index: int

    def run(self, count: int) -> list[LittleTraining]:
        """So many trainings of each class, the harmless ones first."""
        return [self._trained(number, malicious) for malicious in (False, True) for number in range(count)]

    def _trained(self, number: int, malicious: bool) -> LittleTraining:
        share = _SHARES[malicious][number % len(_SHARES[malicious])]
        rows = self.rows[number % len(self.rows)]
        restricted = rows.unsafe if malicious else rows.refused
        dataset = Dataset.of([*_drawn(restricted, number, share), *_drawn(rows.benign, number, 1 - share)])
        purpose = "little training", self.round_index, number, int(malicious)
        steps = train_adapter(
            self.model,
            self.start,
            dataset.batches(stream(self.seed, *purpose), self.training.steps, self.training.batch_size),
            self.training,
            learning_rate=self.learning_rate,
            seed=torch_seed(self.seed, *purpose),
            frozen=self.frozen,
        )
        deltas = [{name: value - self.start[name] for name, value in self.model.adapter_state().items()} for _ in steps]
        return LittleTraining(number=number, malicious=malicious, deltas=deltas)


def fit_surrogate(trainings: Sequence[LittleTraining], meta: ProbeMeta) -> LoraProbe:
    """A probe of the kind of `meta`, fitted to all steps of these trainings; raises ValueError where a class has fewer than 2."""
    samples = ReferenceSamples(meta)
    for run in trainings:
        name = f"{'malicious' if run.malicious else 'benign'}-{run.number:03d}"
        label = ReferenceLabel(client=name, malicious=run.malicious, family=name, source="the attackers' own")
        for step, delta in enumerate(run.deltas, start=1):
            samples.add(label, _message(name, step, {key: delta[key] for key in meta.shapes}))
    return refit(meta, samples.samples(), meta.recipe, "the attackers' own trainings")


def _drawn(dataset: Dataset, number: int, share: float) -> Sequence[Encoded]:
    """`share` of one part of the examples, spread evenly over it."""
    first, end = (len(dataset) * place // _PARTS for place in (number % _PARTS, number % _PARTS + 1))
    count = round(share * (end - first))
    return [dataset.example(first + (end - first) * row // count) for row in range(count)]


def _message(client_id: str, step: int, tensors: Tensors) -> StepDelta:
    return StepDelta(client_id=client_id, round_index=0, base_version=0, branch="real", step=step, num_samples=0, tensors=tensors)
