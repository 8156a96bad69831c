"""The server's part of a round with many clients in one process: admission, scoring, weighing, aggregation.

Updates of the embedded world's adapter, made at random within the bounds of admission, pass the real aggregator and the shipped
live probe, at the levels live, spectrum and consensus, and by FedAvg. Making and encoding them is not timed. Admitted updates
stay in memory, which a run leaves to Ray's object store.
"""

from __future__ import annotations

import resource
import time

import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.messages import AdapterLayout, ClientEvidence, LoRAUpdate
from actors.probe import Probe
from actors.wire import encode_message, encode_tensors
from actors.world.store import SHIPPED_SEED, live_probe_folder, world_folder
from cluster.config.loading import load_config
from defense.tensors import Tensors
from probe.artefact import load_probe
from tests.benchmarks.performance.report import show

SETTINGS = (
    "defense.level=live+spectrum+consensus",
    "probe.threshold=0.999999",  # bounds by hand that let everybody through, so that every update is weighed and folded
    "defense.spectrum.max_flatness=2",
    "defense.consensus.min_cosine=-1",
)
COLUMNS = ("admit_ms", "score_ms", "close_ms", "sum_ms")


def measure(*, small: bool) -> dict[str, dict[str, float]]:
    """Number of clients -> processor milliseconds a client, and the process's peak memory so far in MB."""
    torch.set_num_threads(1)
    found = {str(count): simulate(count) for count in ((100, 200) if small else (100, 1_000, 10_000))}
    rows = [(count, *(figures[column] for column in (*COLUMNS, "peak_mb", "updates_mb"))) for count, figures in found.items()]
    show(("clients (processor ms a client)", *COLUMNS, "peak_mb", "updates_mb"), rows)
    return found


def simulate(count: int) -> dict[str, float]:
    """One round with so many clients."""
    folder = live_probe_folder(world_folder(SHIPPED_SEED))
    meta = load_probe(folder).meta
    layout = AdapterLayout(
        shapes=meta.shapes,
        layers=meta.layers,
        model_fingerprint=meta.model_fingerprint,
        lora_fingerprint=meta.lora_fingerprint,
    )
    config, rng = load_config(None, list(SETTINGS)), torch.Generator().manual_seed(0)
    adapter = {name: 0.1 * torch.randn(shape, generator=rng) for name, shape in meta.shapes.items()}
    aggregator = Aggregator(
        AggregatorConfig(
            training=config.training,
            defense=config.defense,
            aggregation=config.aggregation,
            admission=config.admission,
            threshold=config.probe.threshold,
        ),
        layout,
        encode_tensors(adapter),
    )
    probe, clients = Probe(str(folder), layout), [f"client-{i:05d}" for i in range(count)]
    expected = aggregator.open_round(0, clients, config.training.learning_rate)
    probe.open_round(expected, aggregator.adapter())
    common = {name: torch.randn(tensor.shape, generator=rng) for name, tensor in adapter.items()}
    admit_s = score_s = 0.0
    evidence = []
    for client in clients:
        payload = _update(client, adapter, common, config.training.learning_rate, expected.max_samples, rng)
        started = time.process_time()
        answer, update = aggregator.admit(client, payload)
        admitted = time.process_time()
        score = probe.score_update(update)
        admit_s, score_s = admit_s + admitted - started, score_s + time.process_time() - admitted
        if update is None or score is None:
            raise RuntimeError(f"{client} was refused: {answer.reason}")
        evidence.append(ClientEvidence(client_id=client, update=update, scores=(score,)))
    started = time.process_time()
    report = aggregator.close_round(evidence)
    close_s = time.process_time() - started
    if report.outcome != "aggregated" or any(row.weight == 0 for row in report.clients):
        raise RuntimeError(f"the round was {report.outcome} ({report.why}), and every client should have counted")
    seconds = (admit_s, score_s, close_s, admit_s + score_s + close_s)
    return {
        **{name: 1e3 * spent / count for name, spent in zip(COLUMNS, seconds, strict=True)},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "updates_mb": count * sum(tensor.nbytes for tensor in adapter.values()) / 1e6,
    }


def _update(client: str, adapter: Tensors, common: Tensors, rate: float, num_samples: int, rng: torch.Generator) -> bytes:
    """An update half of which is the same for all clients."""
    tensors = {
        name: tensor + rate * (common[name] + torch.randn(tensor.shape, generator=rng)).clamp(-2, 2)
        for name, tensor in adapter.items()
    }
    return encode_message(
        LoRAUpdate(
            client_id=client, round_index=0, base_version=0, num_samples=num_samples, loss=1.0, train_s=1.0, tensors=tensors
        )
    )
