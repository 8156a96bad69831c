"""How many updates a second a probe scores, against the floor that the memory's bandwidth sets.

Step deltas of the first layer of an 8B model (r 8, q_proj and v_proj: 40,960 values), scored in several ways.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
import torch

from actors.messages import AdapterLayout, StepDelta
from actors.probe import Probe, ProbeActor
from actors.wire import encode_message
from defense.admission.checks import OpenRound
from probe.artefact import LoraProbe, save_probe
from probe.classifiers.linear import LinearProbe
from probe.features import extract, feature_blocks
from probe.meta import ProbeMeta
from tests.benchmarks.performance.report import show

_PREFIX = "base_model.model.model.layers.0.self_attn"
SHAPES = {f"{_PREFIX}.q_proj.lora_B.weight": (4096, 8), f"{_PREFIX}.v_proj.lora_B.weight": (1024, 8)}
NUM_VALUES, BATCH = 40_960, 32
LAYOUT = AdapterLayout(shapes=SHAPES, layers=dict.fromkeys(SHAPES, 0), model_fingerprint="m", lora_fingerprint="l")


def make_probe(folder: Path) -> LoraProbe:
    """A linear probe of the paper's feature with random weights, saved to `folder`."""
    weight = np.random.default_rng(0).normal(size=NUM_VALUES).astype(np.float32)
    meta = ProbeMeta(
        classifier="linear",
        feature="first_layer_b",
        shapes=SHAPES,
        layers=dict.fromkeys(SHAPES, 0),
        model_fingerprint="m",
        lora_fingerprint="l",
        threshold=0.8,
        recipe={},
    )
    probe = LoraProbe(meta, LinearProbe(weight=weight, bias=0.0))
    save_probe(folder, probe)
    return probe


def make_deltas(number: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(number)]


def encode(delta: dict[str, torch.Tensor], client: str) -> bytes:
    return encode_message(
        StepDelta(client_id=client, round_index=0, base_version=0, branch="real", step=1, num_samples=1, tensors=delta)
    )


def rate(call: Callable[[], object], updates: int, seconds: float = 2.0) -> float:
    """Updates per second of `call`, which handles `updates` of them, over about so many seconds."""
    call()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        call()
        done += updates
    return done / (time.perf_counter() - started)


def bandwidth(seconds: float) -> float:
    """Bytes per second that one core reads from memory: the sum of an array that no cache holds."""
    array = np.ones(1 << 28, dtype=np.uint8).view(np.float64)
    return rate(array.sum, 1, seconds) * array.nbytes


def measure(*, small: bool) -> dict[str, float]:
    """Way of scoring -> updates a second."""
    seconds = 0.2 if small else 2.0
    torch.set_num_threads(1)
    clients = [f"client-{i:03d}" for i in range(BATCH)]
    expected = OpenRound(
        round_index=0, base_version=0, client_ids=frozenset(clients), num_steps=1, batch_size=1, max_norm=float("inf")
    )
    with tempfile.TemporaryDirectory() as name:
        probe, deltas = make_probe(Path(name)), make_deltas(BATCH)
        blocks, payloads = (
            feature_blocks("first_layer_b", LAYOUT.layers),
            [encode(d, c) for d, c in zip(deltas, clients, strict=True)],
        )
        features = np.stack([extract(blocks, delta) for delta in deltas])
        actor = Probe(name, LAYOUT)

        def admit_and_score() -> None:
            actor.open_round(expected)
            actor.score_batch(clients, *payloads)

        figures = {
            "feature of a delta": rate(lambda: [extract(blocks, delta) for delta in deltas], BATCH, seconds),
            "score of a feature": rate(lambda: probe.score_features(features), BATCH, seconds),
            "feature and score": rate(lambda: probe.score(deltas), BATCH, seconds),
            "decode, admit, feature and score": rate(admit_and_score, BATCH, seconds),
            **through_ray(name, expected, clients, payloads, seconds),
        }
        floor = bandwidth(seconds) / (NUM_VALUES * 4)
    found = {**figures, "floor: reading the values from memory": floor}
    show(("", "updates a second", "share of floor"), [(name, value, value / floor) for name, value in found.items()])
    return found


def through_ray(folder: str, expected: OpenRound, clients: list[str], payloads: list[bytes], seconds: float) -> dict[str, float]:
    """The same through a ProbeActor, with the payloads in the object store: a call each, and a call for all."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        actor, stored = ProbeActor.remote(folder, LAYOUT), [ray.put(payload) for payload in payloads]

        def singly() -> None:
            actor.open_round.remote(expected)
            ray.get([actor.score.remote(client, payload) for client, payload in zip(clients, stored, strict=True)])

        def together() -> None:
            actor.open_round.remote(expected)
            ray.get(actor.score_batch.options(num_returns=BATCH).remote(clients, *stored))

        return {
            "ProbeActor, a call for each": rate(singly, BATCH, seconds),
            f"ProbeActor, a call for {BATCH} together": rate(together, BATCH, seconds),
        }
    finally:
        ray.shutdown()
