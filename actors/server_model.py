"""ServerModelActor: canary and evaluation in one process with one base model, where both may lie on the same node.

An evaluation goes on while rounds do. It takes the model for a batch at a time, so the canary waits for a batch at most.
"""

from __future__ import annotations

import ray
from ray.actor import ActorClass

from actors.config import EvaluationConfig, LoraConfig, ModelConfig
from actors.evaluation import Evaluation
from actors.messages import EvaluationReport
from actors.server_data import Canary

_EVALUATION = "evaluation"


class ServerModel(Canary):
    """A canary that also evaluates."""

    def __init__(
        self,
        model: ModelConfig,
        lora: LoraConfig,
        path: str,
        per_round: int,
        seed: int,
        evaluation: EvaluationConfig,
        max_length: int,
    ) -> None:
        """As `Canary` and `Evaluation`."""
        super().__init__(model, lora, path, per_round, seed)
        self._evaluation = Evaluation(model, lora, evaluation, max_length, self._shared)

    @ray.method(concurrency_group=_EVALUATION)
    def evaluate(self, rounds_done: int, adapter_version: int, adapter: bytes) -> EvaluationReport:
        """As `Evaluation.evaluate`."""
        return self._evaluation.evaluate(rounds_done, adapter_version, adapter)


ServerModelActor: ActorClass[ServerModel] = ray.remote(concurrency_groups={_EVALUATION: 1})(  # pyright: ignore[reportCallIssue]
    ServerModel  # Ray's types lack this option
)
