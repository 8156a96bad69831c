"""How many actors a run starts and what each asks Ray for: a decision from the cluster's resources, no side effects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.config import ModelConfig
from cluster.config import RunConfig
from cluster.errors import ClusterError

_EVALUATION_GPU_SHARE = 0.2
_PROCESS_BYTES = 450 << 20
"""Resident memory of an actor process with torch, transformers and peft imported, without a model; measured."""
_BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What to start: options are those of Ray's `.options()`."""

    num_client_actors: int
    client_options: dict[str, Any]
    evaluation_options: dict[str, Any]
    server_options: dict[str, Any]
    """Probe and aggregator: they need no reservation of their own on a small machine."""


def plan_placement(
    config: RunConfig,
    resources: dict[str, float],
    model: ModelConfig,
    num_clients: int | None = None,
    num_trainings: int | None = None,
) -> Placement:
    """Decide from `resources` (Ray's cluster_resources: CPU, GPU, memory in bytes).

    Args:
        num_clients: Clients that take part; None: clients.count.
        num_trainings: How many could train side by side; None: the clients of a round, with the references of a refresh.

    Raises:
        ClusterError: the cluster cannot hold the requested actors; names what is missing.
    """
    gpus, cpus = resources.get("GPU", 0), resources.get("CPU", 0)
    if gpus >= 1:
        gpu_share = config.cluster.gpus_per_client or 1 - _EVALUATION_GPU_SHARE
        wanted = config.cluster.client_actors or max(1, int(gpus // 1 * max(1, int((1 - _EVALUATION_GPU_SHARE) // gpu_share))))
        client_options = {"num_gpus": gpu_share, "num_cpus": min(1, cpus / (wanted + 1))}
        evaluation_options = {"num_gpus": _EVALUATION_GPU_SHARE, "num_cpus": 0}
        if wanted * gpu_share + _EVALUATION_GPU_SHARE > gpus:
            raise ClusterError(
                f"cluster.client_actors={wanted} x cluster.gpus_per_client={gpu_share:g} and the evaluation's "
                f"{_EVALUATION_GPU_SHARE} need more than the cluster's {gpus:g} GPUs; lower either"
            )
    else:
        wanted = config.cluster.client_actors or max(1, int(cpus))
        client_options = {"num_cpus": min(1.0, max(cpus, 1) / wanted)}
        evaluation_options = {"num_cpus": 0}
    num_actors = min(wanted, num_trainings or _trainings_of_a_round(config, num_clients or config.clients.count))
    _check_memory(num_actors, model, resources, on_gpu=gpus >= 1)
    return Placement(
        num_client_actors=num_actors,
        client_options=client_options,
        evaluation_options=evaluation_options,
        server_options={"num_cpus": 0},
    )


def _trainings_of_a_round(config: RunConfig, num_clients: int) -> int:
    references = 2 * config.probe.refresh_clients if config.refresh_every else 0
    return min(num_clients, config.clients.per_round or num_clients) + references


def _check_memory(num_actors: int, model: ModelConfig, resources: dict[str, float], *, on_gpu: bool) -> None:
    available = resources.get("memory")
    if available is None:
        return
    per_actor = _PROCESS_BYTES + (0 if on_gpu else model_bytes(model))
    needed = (num_actors + 1) * per_actor
    if needed > available:
        raise ClusterError(
            f"cluster.client_actors={num_actors} and the evaluation need about {needed / 2**30:.1f} GiB "
            f"({per_actor / 2**30:.1f} GiB each), the cluster has {available / 2**30:.1f} GiB: "
            f"set cluster.client_actors to {max(1, int(available // per_actor) - 1)}, or add memory"
        )


def model_bytes(model: ModelConfig) -> int:
    """Size of the base model in memory, from the files of a local directory; 0 when it is not known."""
    files = list(Path(model.path).glob("*.safetensors")) if model.path and Path(model.path).is_dir() else []
    return sum(_num_values(path) for path in files) * _BYTES_PER_VALUE[model.dtype]


def _num_values(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as tensors:
        total = 0
        for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            count = 1
            for side in tensors.get_slice(name).get_shape():
                count *= side
            total += count
        return total
