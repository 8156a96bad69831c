"""ClientActor: turns a client's private instruction data into a LoRA update, streaming evidence while it trains."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING

import ray
import torch

from actors.config import LoraConfig, ModelConfig, Recipe, TrainingConfig
from actors.data.dataset import ClientDataset, load_dataset, stamps
from actors.data.prompting import Batch
from actors.errors import ClientTrainingError
from actors.local_training import LocalStep, train_adapter
from actors.messages import AdapterLayout, Branch, LoRAUpdate, StepDelta, TrainTask
from actors.model import AdaptedModel, choose_device
from actors.scaffold import Correction
from actors.seeding import stream, torch_seed
from actors.wire import decode_tensors, encode_message
from defense.averaging.ffa import frozen_names
from probe.features import tensor_names

if TYPE_CHECKING:
    from actors.attacking import TrainBranch

_DATASETS_KEPT = 64


class Client:
    """Hosts one resident base model and trains any client's adapter on it, one client at a time.

    The model is loaded on first use. Which clients share an actor does not change any result.
    """

    def __init__(self, model: ModelConfig, lora: LoraConfig, training: TrainingConfig) -> None:
        self._model_config, self._lora, self._training = model, lora, training
        self._read_once = lru_cache(maxsize=_DATASETS_KEPT)(self._read)

    def layout(self) -> AdapterLayout:
        """Names, shapes and fingerprints of the adapter; loads the model."""
        return self._model.layout()

    def initial_adapter(self) -> bytes:
        """The adapter that the federation and every shadow branch start from, as safetensors."""
        return self._model.initial_adapter()

    def peft_config_json(self) -> str:
        """The text of adapter_config.json for the trained adapter."""
        return self._model.peft_config_json()

    def train(self, task: TrainTask, adapter: bytes, difference: bytes | None = None) -> Iterator[bytes]:
        """Train one client for one round from the global `adapter` (safetensors bytes).

        `difference`: SCAFFOLD's c - c_i (safetensors bytes), by which gradients are corrected; the update then carries the
        client's new control variate. None: plain training.

        Yields encoded messages: the shadow's step deltas, the real branch's step deltas (all, or the last), and at
        the end one LoRAUpdate. The item before the last is always the last real StepDelta when a probe listens.

        Raises:
            ClientTrainingError: whatever went wrong (unusable files, a loss that is not finite ...), with the traceback.
        """
        try:
            correction = None if difference is None else Correction(decode_tensors(difference))
            train_branch = partial(self._train_branch, correction)
            if task.attack is None:
                yield from self._train(task, adapter, train_branch, correction)
            else:
                from actors.attacking import AttackRound  # an honest client need not load what attackers know of probes

                attacker = AttackRound(task, self._model, train_branch, self._batches)
                yield from attacker.sent(self._train(task, adapter, attacker.train_branch, correction))
        except Exception as error:
            summary = f"{type(error).__name__}: {error}"
            raise ClientTrainingError(f"{summary}\n{traceback.format_exc()}") from error

    def _train(
        self, task: TrainTask, adapter: bytes, train_branch: TrainBranch, correction: Correction | None
    ) -> Iterator[bytes]:
        started = time.perf_counter()
        start = decode_tensors(adapter)
        batches = self._batches(task)
        if task.shadow_learning_rate is not None:
            fixed = decode_tensors(self.initial_adapter())
            for step in train_branch(task, "shadow", fixed, batches, task.shadow_learning_rate):
                yield from self._step_delta(task, "shadow", step, fixed)
        steps: list[LocalStep] = []
        for step in train_branch(task, "real", start, batches, task.learning_rate * task.recipe.learning_rate_factor):
            steps.append(step)
            if task.stream_real == "all" or step.step == len(batches):
                yield from self._step_delta(task, "real", step, start)
        control_variate = None if correction is None else correction.control_variate()
        yield encode_message(self._update(task, steps, time.perf_counter() - started, control_variate))

    @cached_property
    def _model(self) -> AdaptedModel:
        torch.set_num_threads(self._training.num_threads)
        return AdaptedModel(self._model_config, self._lora, choose_device())

    def _dataset(self, files: tuple[str, ...]) -> ClientDataset:
        """As the files are now: what an actor kept of an older state must not depend on which clients it had before."""
        return self._read_once(files, stamps(files))

    def _read(self, files: tuple[str, ...], _stamps: tuple) -> ClientDataset:
        return load_dataset(files, self._model.tokenizer, self._training.max_length)

    def _batches(self, task: TrainTask) -> list[Batch]:
        rng = stream(task.seed, "batches", task.client_id, task.round_index)
        pad_id = self._model.tokenizer.pad_token_id
        training = task.recipe.applied_to(self._training)
        return self._dataset(task.files).batches(rng, training.steps, training.batch_size, pad_id)

    def _train_branch(
        self,
        correction: Correction | None,
        task: TrainTask,
        branch: Branch,
        start: Mapping[str, torch.Tensor],
        batches: Sequence[Batch],
        learning_rate: float,
        frozen: Iterable[str] = (),
    ) -> Iterator[LocalStep]:
        recipe = task.recipe if branch == "real" else Recipe()
        return train_adapter(
            self._model,
            start,
            batches,
            recipe.applied_to(self._training),
            learning_rate=learning_rate,
            optimizer=recipe.optimizer,
            seed=torch_seed(task.seed, "dropout", task.client_id, task.round_index, branch),
            proximal_mu=self._training.proximal_mu if branch == "real" else 0.0,
            correction=correction if branch == "real" else None,
            frozen={*frozen, *(frozen_names(self._model.adapter_parameters) if task.freeze_a else ())},
        )

    def _step_delta(self, task: TrainTask, branch: Branch, step: LocalStep, start: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
        if task.probe_feature is None:
            return
        parameters = self._model.adapter_parameters
        names = tensor_names(task.probe_feature, self._model.layers)
        yield encode_message(
            StepDelta(
                client_id=task.client_id,
                round_index=task.round_index,
                base_version=task.base_version,
                branch=branch,
                step=step.step,
                num_samples=step.num_samples,
                tensors={name: parameters[name].detach().cpu() - start[name] for name in names},
            )
        )

    def _update(
        self,
        task: TrainTask,
        steps: Sequence[LocalStep],
        seconds: float,
        control_variate: Mapping[str, torch.Tensor] | None,
    ) -> LoRAUpdate:
        return LoRAUpdate(
            client_id=task.client_id,
            round_index=task.round_index,
            base_version=task.base_version,
            num_samples=sum(step.num_samples for step in steps),
            loss=sum(step.loss for step in steps) / len(steps),
            train_s=seconds,
            tensors=self._model.adapter_state(),
            control_variate=control_variate,
        )


ClientActor = ray.remote(Client)
