"""The actors with server data: what a submitted update does to the server's own rows, on its own copy of the base model.

`CanaryActor` holds restricted prompts with refusals (docs/method.md section 8): how much less likely an update makes these
refusals than the global adapter does. It also mends what a round's aggregate has lost of them.

`ValidationActor` holds a little clean data of the clients' own tasks. It measures by how much an update raises the loss of the
task that it harms most, for level utility. For the baselines fltrust and zeno the server trains one update of its own on the
data, from the same global adapter and for as many steps as the clients, and measures by how much each update lowers its loss.

A round is `open_round`, a `measure` per admitted update, `seconds`.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import chain
from typing import ClassVar

import ray
import torch

from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.data.dataset import Dataset, load_dataset
from actors.data.encoding import Batch, Encoded, collate
from actors.data.files import Files
from actors.local_training import mean_response_loss, train_adapter
from actors.messages import AdmittedUpdate, Preserved, Reading, RefusalLoss, RefusalsLost
from actors.model.adapted import AdaptedModel
from actors.model.shared import SharedModel
from actors.preservation import Measured, Refusals, RoundRefusals
from actors.seeding import stream, torch_seed
from actors.state_vector import StateVector
from actors.task_gradients import TaskGradients
from actors.wire import decode_tensors, encode_tensors
from defense.admission.checks import OpenRound, delta_norm
from defense.averaging.pairs import frozen_names
from defense.levels.canary import RISE
from defense.levels.fltrust import COSINE
from defense.levels.utility import TASK_COSINE, TASK_RISE
from defense.levels.zeno import FALL, NORM
from defense.preservation import is_serious, serious_rise
from defense.signals import Signal

_BATCH_SIZE = 64
_SERVER = "server"
"""In place of a client's id in the names of random streams."""

Tensors = Mapping[str, torch.Tensor]


class ServerData(ABC):
    """Holds the base model and rows with responses that no client has; a subclass says what it measures of an update."""

    signal: ClassVar[Signal]

    def __init__(self, model: ModelConfig, lora: LoraConfig, files: Files) -> None:
        """`files`: the encoded rows (`Dataset.save`)."""
        self._shared, self._files = SharedModel(model, lora), files
        self._global: Tensors | None = None
        self._global_loss = 0.0
        self._seconds = 0.0

    def num_rows(self) -> int:
        """Loads the model and the rows; raises DataError when these cannot be used."""
        with self._shared.turn():
            return len(self._data)

    def open_round(self, expected: OpenRound, adapter: bytes) -> float:
        """Measure this round's updates against this global adapter; returns its loss on the rows."""
        self._global = None  # in a round that cannot be opened no update is measured against an older adapter
        with self._shared.turn():
            started, state = time.perf_counter(), decode_tensors(adapter)
            self._prepare(expected, state)
            self._global_loss = self._loss(state)
            self._global = state
            self._seconds = time.perf_counter() - started
        return self._global_loss

    def measure(self, update: AdmittedUpdate | None) -> Reading | None:
        """What an admitted update does. None stays None: the aggregator refused the update.

        Raises:
            RuntimeError: no round is open.
        """
        if update is None:
            return None
        if self._global is None:
            raise RuntimeError("no round is open; call open_round first")
        with self._shared.turn():
            started = time.perf_counter()
            values = self._values(StateVector.of(self._global).read(update.state), self._global)
            self._seconds += time.perf_counter() - started
        return Reading(client_id=update.client_id, signal=self.signal, values=values)

    def seconds(self) -> float:
        """Spent on the round so far: on the global adapter and on every update that was measured."""
        return self._seconds

    @abstractmethod
    def _prepare(self, expected: OpenRound, adapter: Tensors) -> None:
        """Compute what a subclass needs of the round and the global adapter before the first loss."""

    @abstractmethod
    def _values(self, state: Tensors, adapter: Tensors) -> dict[str, float]:
        """What an update of this state does, by name.

        Args:
            state: The client's full LoRA state.
            adapter: The global adapter.
        """

    @property
    def _model(self) -> AdaptedModel:
        """For the length of a turn."""
        return self._shared.model

    @cached_property
    def _data(self) -> Dataset:
        return load_dataset(self._files)

    @abstractmethod
    def _loss(self, adapter: Tensors) -> float:
        """Of the rows' responses under an adapter, nats per token."""


class Canary(ServerData):
    """Its rows are restricted prompts with refusals. A round's updates and its aggregate are measured on those that it draws."""

    signal = "canary"

    def __init__(self, model: ModelConfig, lora: LoraConfig, path: str, per_round: int, seed: int) -> None:
        """`path`: the encoded rows; `per_round` and `seed`: as in `Refusals`."""
        super().__init__(model, lora, (path,))
        self._per_round, self._seed = per_round, seed
        self._round: tuple[int, RoundRefusals] | None = None
        self._last: dict[bytes, Measured] = {}

    def num_rows(self) -> int:
        """As `ServerData.num_rows`; also raises DataError where the rows are too few."""
        with self._shared.turn():
            _ = self._refusals
        return super().num_rows()

    def refusal_loss(self) -> RefusalLoss:
        """What refusals cost under the adapter that every run begins with."""
        with self._shared.turn():
            refusals = self._refusals
            return RefusalLoss(loss=refusals.reference, error=refusals.error, serious=serious_rise(refusals.tokens))

    def lost(self, round_index: int, aggregate: bytes, before: bytes) -> RefusalsLost:
        """What a round has lost of the refusals; the arguments are those of `preserve`."""
        with self._shared.turn():
            started, refusals = time.perf_counter(), self._drawn(round_index)
            measured = self._measured(refusals, aggregate)
            rise = measured.loss - min(refusals.reference, self._measured(refusals, before).loss)
            serious = is_serious(rise, measured.error, refusals.tokens)
            return RefusalsLost(rise=rise, is_serious=serious, seconds=time.perf_counter() - started)

    def preserve(
        self, round_index: int, aggregate: bytes, before: bytes, max_steps: int, *, freezes_a: bool = False
    ) -> Preserved:
        """Mend what a round has lost of the refusals, in at most so many steps; 0 measures only.

        Args:
            round_index: The round, from 0.
            aggregate: The adapter that the round made, as safetensors; likewise `before`: the one that it began with.
            freezes_a: Whether nobody trains A.
        """
        with self._shared.turn():
            started, refusals = time.perf_counter(), self._drawn(round_index)
            state = decode_tensors(aggregate)
            frozen = frozen_names(state) if freezes_a else ()
            measured, reference = self._measured(refusals, aggregate), refusals.reference
            mended = refusals.mended(state, decode_tensors(before), measured, max_steps=max_steps, frozen=frozen)
            return Preserved(
                adapter=encode_tensors(mended.state) if mended.num_steps else aggregate,
                rise=measured.loss - reference,
                rise_after=mended.measured.loss - reference,
                num_steps=mended.num_steps,
                seconds=time.perf_counter() - started,
            )

    def _prepare(self, expected: OpenRound, adapter: Tensors) -> None:  # noqa: ARG002
        _ = self._drawn(expected.round_index)

    def _drawn(self, round_index: int) -> RoundRefusals:
        """The rows of a round."""
        if self._round is None or self._round[0] != round_index:
            self._round, self._last = (round_index, self._refusals.drawn(round_index)), {}
        return self._round[1]

    def _measured(self, refusals: RoundRefusals, adapter: bytes) -> Measured:
        """What the refusals cost under it; a round asks for that of its adapter and of its aggregate more than once."""
        if adapter not in self._last:
            self._last[adapter] = refusals.measured(decode_tensors(adapter))
        return self._last[adapter]

    @cached_property
    def _refusals(self) -> Refusals:
        return Refusals(self._model, self._data.examples, self._per_round, self._seed)

    def _loss(self, adapter: Tensors) -> float:
        if self._round is None:
            raise RuntimeError("no round is open; call open_round first")
        return self._round[1].measured(adapter).loss

    def _values(self, state: Tensors, adapter: Tensors) -> dict[str, float]:  # noqa: ARG002 - its loss is known
        return {RISE: self._loss(state) - self._global_loss}


class Validation(ServerData):
    """Its rows are harmless instructions with responses, a task in each file."""

    signal = "validation"

    def __init__(
        self,
        model: ModelConfig,
        lora: LoraConfig,
        files: Files,
        training: TrainingConfig,
        *,
        levels: Collection[str],
        max_rows: int,
        seed: int,
        freezes_a: bool = False,
    ) -> None:
        """Measure updates by the rows of the files.

        Args:
            levels: What is measured: that which these of fltrust, zeno and utility read.
            max_rows: Rows at most, spread evenly over the files, of which it takes the first.
            seed: The run's.
            freezes_a: Whether nobody trains A.
        """
        super().__init__(model, lora, files)
        self._training, self._seed, self._freezes_a = training, seed, freezes_a
        self._levels, self._max_rows = frozenset(levels), max_rows
        self._own: Tensors | None = None
        self._tasks: TaskGradients | None = None

    @cached_property
    def _data(self) -> Dataset:
        return Dataset.of(chain.from_iterable(self._rows_of_tasks))

    @cached_property
    def _rows_of_tasks(self) -> list[list[Encoded]]:
        most = max(1, self._max_rows // len(self._files))
        return [load_dataset((path,)).examples[:most] for path in self._files]

    @cached_property
    def _batches(self) -> list[Batch]:
        return self._batched(self._data.examples)

    def _batched(self, examples: Iterable[Encoded]) -> list[Batch]:
        """Rows of similar length together."""
        ordered = sorted(examples, key=lambda example: len(example.ids))
        parts = [ordered[start : start + _BATCH_SIZE] for start in range(0, len(ordered), _BATCH_SIZE)]
        return [collate(part).to(self._model.device) for part in parts]

    def _loss(self, adapter: Tensors) -> float:
        if self._tasks is not None and self._global is None:  # that of the round's adapter came with the gradients
            return self._tasks.loss
        self._model.load_adapter(adapter)
        return mean_response_loss(self._model, self._batches)

    def _prepare(self, expected: OpenRound, adapter: Tensors) -> None:
        self._own = _delta(self._trained(expected, adapter), adapter) if "fltrust" in self._levels else None
        self._tasks = None
        if "utility" in self._levels:
            self._tasks = TaskGradients.at(adapter, self._model, [self._batched(rows) for rows in self._rows_of_tasks])

    def _trained(self, expected: OpenRound, adapter: Tensors) -> Tensors:
        training, place = self._training, (_SERVER, expected.round_index)
        batches = self._data.batches(stream(self._seed, "batches", *place), training.steps, training.batch_size)
        if expected.learning_rate is None:
            raise RuntimeError("the round was opened without a learning rate; open it on the aggregator first")
        steps = train_adapter(
            self._model,
            adapter,
            batches,
            training,
            learning_rate=expected.learning_rate,
            seed=torch_seed(self._seed, "dropout", *place, "real"),
            frozen=frozen_names(adapter) if self._freezes_a else (),
        )
        for _ in steps:
            pass
        return self._model.adapter_state()

    def _values(self, state: Tensors, adapter: Tensors) -> dict[str, float]:
        delta, found = _delta(state, adapter), dict[str, float]()
        if self._own is not None:
            found[COSINE] = _cosine(delta, self._own)
        if "zeno" in self._levels:
            found |= {FALL: self._global_loss - self._loss(state), NORM: delta_norm(delta)}
        if self._tasks is not None:
            found[TASK_RISE], found[TASK_COSINE] = self._tasks.harm(StateVector.of(delta).pack(delta))
        return found


def _delta(state: Tensors, adapter: Tensors) -> Tensors:
    return {name: tensor - adapter[name] for name, tensor in state.items()}


def _cosine(one: Tensors, other: Tensors) -> float:
    """Over all tensors, in float64; 0 where one of them points nowhere."""
    dot = math.fsum(float((one[name].double() * other[name].double()).sum()) for name in sorted(one))
    norms = delta_norm(one) * delta_norm(other)
    return dot / norms if norms else 0.0


CanaryActor = ray.remote(Canary)
ValidationActor = ray.remote(Validation)
