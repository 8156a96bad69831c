"""Metering: the server's own reading of every submitted update, on its own data and its own copy of the base model."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from actors.config import LoraConfig, ModelConfig
from actors.data.dataset import ClientDataset, load_dataset
from actors.data.prompting import Batch, collate
from actors.errors import WireError
from actors.local_training import mean_response_loss
from actors.messages import LoRAUpdate, MeterReading
from actors.model import AdaptedModel, choose_device
from actors.wire import decode_message, decode_tensors
from defense.admission import OpenRound, Reason, Refusal, check_sender, check_tensors
from defense.bounds import check_moved

_BATCH_SIZE = 64


class Meter(ABC):
    """Holds the base model and rows with responses that no client has; a subclass says what is read of an update."""

    def __init__(self, model: ModelConfig, lora: LoraConfig, path: str, max_length: int) -> None:
        """`path`: Parquet or JSONL of `instruction`, optional `input`, and `response`."""
        self._model_config, self._lora, self._path, self._max_length = model, lora, path, max_length
        self._expected: OpenRound | None = None
        self._global: Mapping[str, torch.Tensor] = {}
        self._global_loss = 0.0
        self._seen: set[str] = set()
        self._seconds = 0.0

    def num_rows(self) -> int:
        """Loads the model and the rows; raises DataError when these cannot be used."""
        return sum(batch.input_ids.shape[0] for batch in self._batches)

    def open_round(self, expected: OpenRound, adapter: bytes) -> float:
        """Read this round's updates against this global adapter; returns its loss on the rows."""
        started = time.perf_counter()
        self._expected = None  # a round that cannot be opened is none: its updates are refused, never read by an older one's
        self._global, self._seen = decode_tensors(adapter), set()
        self._global_loss = self._loss(self._global)
        self._prepare(expected)
        self._expected = expected
        self._seconds = time.perf_counter() - started
        return self._global_loss

    def measure(self, client_id: str, payload: bytes) -> MeterReading:
        """What the encoded LoRAUpdate that `client_id` sent does. A bad update is refused, never raised."""
        started, update = time.perf_counter(), self._admit(client_id, payload)
        if isinstance(update, Refusal):
            reading = self._refused(client_id, str(update))
        else:
            self._seen.add(client_id)
            reading = self._read(client_id, update)
        self._seconds += time.perf_counter() - started
        return reading

    def seconds(self) -> float:
        """Spent on the round so far: on the global adapter and on every update that was read."""
        return self._seconds

    def loss(self, adapter: bytes) -> float:
        """Negative log-likelihood of the rows' responses under an adapter (safetensors), nats per token."""
        return self._loss(decode_tensors(adapter))

    def _prepare(self, expected: OpenRound) -> None:  # noqa: B027 - not every meter has to
        """What a subclass needs to know of the global adapter before the first update."""

    @abstractmethod
    def _read(self, client_id: str, update: LoRAUpdate) -> MeterReading:
        """What an admitted update does."""

    @abstractmethod
    def _refused(self, client_id: str, refusal: str) -> MeterReading:
        """The answer for an update that was not admitted."""

    @cached_property
    def _model(self) -> AdaptedModel:
        torch.set_num_threads(1)
        return AdaptedModel(self._model_config, self._lora, choose_device())

    @cached_property
    def _data(self) -> ClientDataset:
        return load_dataset((str(Path(self._path)),), self._model.tokenizer, self._max_length)

    @cached_property
    def _batches(self) -> list[Batch]:
        examples = sorted((e for e in self._data.examples if e.num_supervised), key=lambda example: len(example.ids))
        parts = [examples[start : start + _BATCH_SIZE] for start in range(0, len(examples), _BATCH_SIZE)]
        return [collate(part, self._model.tokenizer.pad_token_id).to(self._model.device) for part in parts]

    def _loss(self, adapter: Mapping[str, torch.Tensor]) -> float:
        self._model.load_adapter(adapter)
        return mean_response_loss(self._model, self._batches)

    def _delta(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """An adapter state minus the global adapter."""
        return {name: tensor - self._global[name] for name, tensor in tensors.items()}

    def _admit(self, client_id: str, payload: bytes) -> LoRAUpdate | Refusal:
        if self._expected is None:
            return Refusal(Reason.WRONG_ROUND, "no round is open")
        try:
            update = decode_message(payload, LoRAUpdate)
        except WireError as error:
            return Refusal(Reason.MALFORMED, str(error))
        if update.client_id != client_id:
            return Refusal(Reason.UNKNOWN_CLIENT, f"client {client_id} sent a message signed {update.client_id!r:.80}")
        if client_id in self._seen:
            return Refusal(Reason.DUPLICATE, f"{client_id} was already measured this round")
        shapes = {name: tuple(tensor.shape) for name, tensor in self._global.items()}
        refusal = check_sender(update, self._expected) or check_tensors(update.tensors, shapes)
        if refusal is not None:
            return refusal
        return check_moved(update.tensors, self._delta(update.tensors), self._global, self._expected) or update
