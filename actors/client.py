"""Turns a client's private instruction data into a LoRA update, streaming evidence while it trains. Imports no Ray."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch

from actors.config import LocalOptimizerName, LoraConfig, ModelConfig, TrainingConfig
from actors.data.dataset import load_dataset
from actors.data.encoding import Batch
from actors.errors import ClientTrainingError
from actors.local_training import LocalStep, train_adapter
from actors.messages import AdapterLayout, Branch, LoRAUpdate, StepDelta, TrainTask
from actors.model.adapted import AdaptedModel, choose_device
from actors.model.saved_adapter import check_saved
from actors.scaffold import Correction
from actors.seeding import stream, torch_seed
from actors.wire import decode_tensors, encode_message
from defense.averaging.pairs import frozen_names
from probe.features import tensor_names

Tensors = Mapping[str, torch.Tensor]


class Client:
    """Hosts one resident base model and trains any client's adapter on it, one client at a time.

    The model is loaded on first use. Which clients share an actor does not change any result.
    """

    def __init__(self, model: ModelConfig, lora: LoraConfig, training: TrainingConfig) -> None:
        self._model_config, self._lora, self._training = model, lora, training

    def layout(self) -> AdapterLayout:
        """Names, shapes and fingerprints of the adapter; loads the model."""
        return self._model.layout()

    def initial_adapter(self) -> bytes:
        """The adapter that the federation and every shadow branch start from, as safetensors."""
        return self._model.initial_adapter()

    def peft_config_json(self) -> str:
        """The text of adapter_config.json for the trained adapter."""
        return self._model.peft_config_json()

    def check_saved(self, adapter: bytes, tensors: bytes, config_json: str) -> None:
        """Raises ModelError unless the saved files, loaded by peft, give the logits of `adapter` (safetensors bytes)."""
        check_saved(self._model, decode_tensors(adapter), tensors, config_json)

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
            yield from self._messages(task, decode_tensors(adapter), None if difference is None else decode_tensors(difference))
        except Exception as error:
            summary = f"{type(error).__name__}: {error}"
            raise ClientTrainingError(f"{summary}\n{traceback.format_exc()}") from error

    def _messages(self, task: TrainTask, start: Tensors, difference: Tensors | None) -> Iterator[bytes]:
        started = time.perf_counter()
        correction = None if difference is None else Correction(difference)
        batches = self._batches(task)
        if task.shadow_learning_rate is not None:
            fixed = decode_tensors(self.initial_adapter())
            for step in self._branch(task, "shadow", fixed, batches, task.shadow_learning_rate):
                yield from self._step_delta(task, "shadow", step, fixed)
        steps: list[LocalStep] = []
        for step in self._branch(task, "real", start, batches, task.learning_rate, correction):
            steps.append(step)
            if task.stream_real == "all" or step.step == len(batches):
                yield from self._step_delta(task, "real", step, start)
        control_variate = None if correction is None else correction.control_variate()
        yield encode_message(self._update(task, steps, time.perf_counter() - started, control_variate))

    @cached_property
    def _model(self) -> AdaptedModel:
        torch.set_num_threads(self._training.num_threads)
        return AdaptedModel(self._model_config, self._lora, choose_device())

    def _settings(self, task: TrainTask, branch: Branch = "real") -> TrainingConfig:  # noqa: ARG002 - a subclass tells them apart
        """How the client trains in this task."""
        return self._training if task.num_steps is None else self._training.model_copy(update={"steps": task.num_steps})

    def _optimizer(self, task: TrainTask, branch: Branch) -> LocalOptimizerName:  # noqa: ARG002 - a subclass tells them apart
        return "adamw"

    def _batches(self, task: TrainTask, files: tuple[str, ...] | None = None) -> list[Batch]:
        """The batches that the client draws in this round, from its own files or from these."""
        rng = stream(task.seed, "batches", task.client_id, task.round_index)
        settings = self._settings(task)
        return load_dataset(task.files if files is None else files).batches(rng, settings.steps, settings.batch_size)

    def _branch(
        self,
        task: TrainTask,
        branch: Branch,
        start: Tensors,
        batches: Sequence[Batch],
        learning_rate: float,
        correction: Correction | None = None,
        frozen: Iterable[str] = (),
    ) -> Iterator[LocalStep]:
        """Train one branch; what lies in the live adapter after each step is what the client sends.

        Args:
            frozen: Parameters that stay as they are, beside those that the task freezes.
        """
        settings = self._settings(task, branch)
        return train_adapter(
            self._model,
            start,
            batches,
            settings,
            learning_rate=learning_rate,
            optimizer=self._optimizer(task, branch),
            seed=torch_seed(task.seed, "dropout", task.client_id, task.round_index, branch),
            proximal_mu=settings.proximal_mu if branch == "real" else 0.0,
            correction=correction,
            frozen={*frozen, *(frozen_names(self._model.adapter_parameters) if task.freeze_a else ())},
        )

    def _step_delta(self, task: TrainTask, branch: Branch, step: LocalStep, start: Tensors) -> Iterator[bytes]:
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

    def _update(self, task: TrainTask, steps: Sequence[LocalStep], seconds: float, control_variate: Tensors | None) -> LoRAUpdate:
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
