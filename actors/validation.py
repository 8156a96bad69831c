"""ValidationActor: submitted updates against a little clean data of the clients' own task, which the server was given.

The server trains one update of its own on that data, from the same global adapter and for as many steps as the clients, for
level fltrust; and it measures by how much each submitted update lowers the data's loss, for level zeno. Both are baselines:
they suppose data that a federation seldom has.
"""

from __future__ import annotations

import math

import ray
import torch

from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.local_training import train_adapter
from actors.messages import LoRAUpdate, ValidationReading
from actors.metering import Meter
from actors.seeding import stream, torch_seed
from defense.admission import OpenRound, delta_norm
from defense.averaging.ffa import frozen_names

_SERVER = "server"
"""In place of a client's id in the names of random streams."""


class Validation(Meter):
    """Its rows are harmless instructions with responses."""

    def __init__(
        self,
        model: ModelConfig,
        lora: LoraConfig,
        path: str,
        training: TrainingConfig,
        *,
        seed: int,
        trains: bool,
        freezes_a: bool = False,
    ) -> None:
        """Read updates by the rows at `path`.

        Args:
            seed: The run's.
            trains: Whether an update of the server's own is trained each round, for the cosines; without, they are None.
            freezes_a: Whether nobody trains A.
        """
        super().__init__(model, lora, path, training.max_length)
        self._training, self._seed, self._trains, self._freezes_a = training, seed, trains, freezes_a
        self._own: dict[str, torch.Tensor] | None = None

    def _prepare(self, expected: OpenRound) -> None:
        self._own = self._delta(self._trained(expected)) if self._trains else None

    def _trained(self, expected: OpenRound) -> dict[str, torch.Tensor]:
        training, place = self._training, (_SERVER, expected.round_index)
        pad_id = self._model.tokenizer.pad_token_id
        batches = self._data.batches(stream(self._seed, "batches", *place), training.steps, training.batch_size, pad_id)
        steps = train_adapter(
            self._model,
            self._global,
            batches,
            training,
            learning_rate=expected.learning_rate,
            seed=torch_seed(self._seed, "dropout", *place, "real"),
            frozen=frozen_names(self._global) if self._freezes_a else (),
        )
        for _ in steps:
            pass
        return self._model.adapter_state()

    def _read(self, client_id: str, update: LoRAUpdate) -> ValidationReading:
        delta = self._delta(update.tensors)
        return ValidationReading(
            client_id=client_id,
            cosine=None if self._own is None else _cosine(delta, self._own),
            fall=self._global_loss - self._loss(update.tensors),
            norm=delta_norm(delta),
        )

    def _refused(self, client_id: str, refusal: str) -> ValidationReading:
        return ValidationReading(client_id=client_id, refusal=refusal)


def _cosine(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Over all tensors, in float64; 0 where one of them points nowhere."""
    dot = math.fsum(float((one[name].double() * other[name].double()).sum()) for name in sorted(one))
    norms = delta_norm(one) * delta_norm(other)
    return dot / norms if norms else 0.0


ValidationActor = ray.remote(Validation)
