"""Realigning: after the last round an actor fine-tunes the final adapter on the server's data, as a client trains on its own."""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from actors.messages import LoRAUpdate, TrainTask
from actors.wire import decode_message, encode_tensors
from cluster.config.schema import RunConfig
from cluster.errors import ClusterError, LostError
from cluster.round.local_rounds import Delivery, Job, StepDeltas, train_all
from cluster.state.membership import Files
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import answer_of
from cluster.workers.pool import ClientPool

_SERVER = "server"
"""In place of a client's id; its random streams are its own."""


class _Attempt:
    """Receives the one update of an attempt."""

    def __init__(self) -> None:
        self.delivery: Delivery | None = None

    def step_deltas(self, deltas: StepDeltas) -> None:
        """There are none: no probe reads them."""

    def deliver(self, delivery: Delivery) -> None:
        self.delivery = delivery


def realign(config: RunConfig, files: Files, pool: ClientPool, adapter: bytes) -> bytes:
    """The adapter after `realignment.steps` more steps, both as safetensors; trained by an actor of the pool.

    Raises:
        ClusterError: training failed, was late, or lost its actor in every attempt; the rounds are committed all the same.
    """
    why = ""
    for _ in range(config.cluster.round_attempts):
        delivery = _trained(config, files, pool, adapter)
        if delivery.update is None:
            why = str(delivery.failure)
            if delivery.lost:
                continue
            break
        try:
            sent = answer_of(delivery.update, config.cluster.call_timeout_s, "reading the realigned adapter")
        except LostError as error:
            why = str(error)
        except RayError as error:  # the client's own, which ended its stream
            raise _failure(first_line(error)) from error
        else:
            return encode_tensors(decode_message(sent, LoRAUpdate).tensors)
    raise _failure(why)


def _trained(config: RunConfig, files: Files, pool: ClientPool, adapter: bytes) -> Delivery:
    attempt = _Attempt()
    patience = max(1.0, config.realignment.steps / config.training.steps)
    train_all(
        [(pool, [Job(_task(config, files), ray.put(adapter), attempt)])],
        timeout_s=patience * config.clients.timeout_s,
        start_timeout_s=config.cluster.start_timeout_s,
    )
    if attempt.delivery is None:
        raise RuntimeError("train_all returned without a delivery")
    return attempt.delivery


def _task(config: RunConfig, files: Files) -> TrainTask:
    settings = config.realignment
    return TrainTask(
        client_id=_SERVER,
        round_index=config.rounds,
        base_version=0,
        files=files,
        learning_rate=settings.learning_rate or config.training.min_learning_rate,
        seed=config.seed,
        probe_feature=None,
        freeze_a=config.aggregation.freezes_a,
        num_steps=settings.steps,
    )


def _failure(why: str) -> ClusterError:
    return ClusterError(f"realigning the final adapter: {why}; every round is committed, go on with: safe-fedllm run --resume")
