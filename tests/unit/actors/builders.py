"""Small updates and rounds over a hand-made adapter layout, for tests of the server's actors without a model."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.config import TrainingConfig
from actors.messages import (
    AdapterLayout,
    AdmittedUpdate,
    ClientEvidence,
    ClientRound,
    LoRAUpdate,
    ProbeScore,
    Reading,
    RoundReport,
    StepDelta,
    TrainTask,
)
from actors.simulation.client import SimulatedTask
from actors.state_vector import StateVector
from actors.wire import decode_tensors, encode_message, encode_tensors
from defense.admission.checks import OpenRound
from defense.admission.settings import AdmissionConfig
from defense.config import DefenseConfig
from defense.rules.config import AggregationConfig
from probe.artefact import LoraProbe, save_probe
from probe.classifiers.linear import LinearProbe
from probe.meta import ProbeMeta

B0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SHAPES = {A0: (2, 3), B0: (3, 2)}
LAYOUT = AdapterLayout(shapes=SHAPES, layers=dict.fromkeys(SHAPES, 0), model_fingerprint="m", lora_fingerprint="l")
UNBOUNDED = AdmissionConfig(value_factor=None, product_factor=None)
"""For deltas that are round numbers; the bounds on values and products have tests of their own."""
BY_HAND = {"canary": {"max_rise": 0.5}, "spectrum": {"max_flatness": 0.9}, "consensus": {"min_cosine": -0.1}}
"""Bounds that keys set, so that a test needs no reference clients."""
TRAINING = TrainingConfig(steps=2, batch_size=4, learning_rate=0.5, min_learning_rate=0.1)
START = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
START_BYTES = encode_tensors(START)
META = ProbeMeta(
    classifier="linear",
    feature="first_layer_b",
    shapes={B0: SHAPES[B0]},
    layers={B0: 0},
    model_fingerprint="m",
    lora_fingerprint="l",
    threshold=0.8,
    recipe={"learning_rate": 0.5},
)

Tensors = Mapping[str, torch.Tensor]


def train_task(files: tuple[str, ...], **changes) -> TrainTask:
    """What client a is asked to do in the first round, with these fields changed; `recipe` or `attack`: a simulated client."""
    fields = {
        "client_id": "a",
        "round_index": 0,
        "base_version": 0,
        "files": files,
        "learning_rate": 0.01,
        "seed": 0,
        "probe_feature": "first_layer_b",
    }
    return (SimulatedTask if {"recipe", "attack"} & set(changes) else TrainTask)(**(fields | changes))


def filled(value: float, *names: str) -> dict[str, torch.Tensor]:
    """Tensors of these names, or of all, in which every value is this one."""
    return {name: torch.full(SHAPES[name], value) for name in names or SHAPES}


def random_state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def update(client_id: str, value: float | Tensors, **fields) -> bytes:
    """An encoded update of these tensors, or whose tensors are all this value."""
    tensors = value if isinstance(value, Mapping) else filled(value)
    defaults = {"round_index": 0, "base_version": 0, "num_samples": 8, "loss": 1.0, "train_s": 0.1, "tensors": tensors}
    return encode_message(LoRAUpdate(client_id=client_id, **(defaults | fields)))


def admitted(client_id: str, value: float | Tensors, num_samples: int = 8) -> AdmittedUpdate:
    """What the aggregator makes of such an update, as the other actors read it from the object store."""
    tensors = value if isinstance(value, Mapping) else filled(value)
    state = StateVector.of(tensors).pack(tensors).numpy()
    state.flags.writeable = False
    return AdmittedUpdate(client_id=client_id, num_samples=num_samples, state=state)


def step_delta(client_id: str, value: float | Tensors, step: int = 2, *, branch="real", **fields) -> bytes:
    """An encoded step delta of the tensors that first_layer_b reads, all this value, or of these tensors."""
    tensors = value if isinstance(value, Mapping) else filled(value, B0)
    defaults = {"round_index": 0, "base_version": 0, "num_samples": 4, "tensors": tensors}
    return encode_message(StepDelta(client_id=client_id, branch=branch, step=step, **(defaults | fields)))


def scores(client_id: str, *probabilities: float, branch="real", threshold: float | None = None) -> list[ProbeScore]:
    """A probe score per step, in order."""
    return [
        ProbeScore(client_id=client_id, branch=branch, step=step, probability=p, threshold=threshold, probe_version=1)
        for step, p in enumerate(probabilities, start=1)
    ]


def make_aggregator(
    level: str = "none",
    *,
    start: Tensors = START,
    layout: AdapterLayout = LAYOUT,
    training: TrainingConfig = TRAINING,
    admission: AdmissionConfig = UNBOUNDED,
    min_updates: int = 1,
    seed: int = 0,
    defense: Mapping[str, object] | None = None,
    threshold: float | None = 0.8,
    **aggregation: object,
) -> Aggregator:
    """An aggregator at a level whose bounds are set by keys; the other keywords are settings of the aggregation."""
    config = AggregatorConfig(
        training=training,
        defense=DefenseConfig.model_validate({"level": level, **BY_HAND, **(defense or {})}),
        threshold=threshold,
        aggregation=AggregationConfig.model_validate(aggregation),
        admission=admission,
        min_updates=min_updates,
        seed=seed,
    )
    return Aggregator(config, layout, encode_tensors(start))


def deliver(
    made: Aggregator,
    client_id: str,
    sent: bytes,
    last_delta: bytes | None = None,
    scores: Iterable[ProbeScore] = (),
    readings: Iterable[Reading] = (),
) -> ClientEvidence:
    """Let an aggregator admit an update, which it must; the evidence on the client."""
    answer, admitted = made.admit(client_id, sent, last_delta)
    assert answer.admitted, answer.reason
    assert admitted is not None
    return ClientEvidence(client_id=client_id, update=admitted, scores=tuple(scores), readings=tuple(readings))


def run_round(
    made: Aggregator, values: Mapping[str, float | Tensors], round_index: int = 0, *, flagged: Iterable[str] = (), **fields
) -> RoundReport:
    """A whole round of updates at the values given, which the probe judges too; those of the flagged clients weigh nothing at
    level live."""
    made.open_round(round_index, list(values), 0.5)
    version = made.state().version
    return made.close_round(
        [
            deliver(
                made,
                client_id,
                update(client_id, value, round_index=round_index, base_version=version, **fields),
                scores=scores(client_id, 0.9 if client_id in flagged else 0.1, branch="update", threshold=0.8),
            )
            for client_id, value in values.items()
        ]
    )


def rows(report: RoundReport) -> dict[str, ClientRound]:
    return {row.client_id: row for row in report.clients}


def value_of(made: Aggregator) -> float:
    """The one value that all tensors of the global adapter hold, within rounding."""
    values = torch.cat([tensor.reshape(-1) for tensor in decode_tensors(made.adapter()).values()])
    assert torch.allclose(values, values[0], rtol=1e-6)
    return float(values[0])


def open_round(*client_ids: str, **changes) -> OpenRound:
    """The first round of two steps of four samples, as an aggregator opens it."""
    fields = {"round_index": 0, "base_version": 0, "num_steps": 2, "batch_size": 4, "max_norm": 100.0}
    return OpenRound(client_ids=frozenset(client_ids), **(fields | changes))


def write_probe(folder: Path, weight: float | Iterable[float], bias: float = 0.0, **changes) -> str:
    """Save a linear probe with these weights, and these fields of META changed; returns its folder."""
    meta = replace(META, **changes)
    size = sum(rows * columns for rows, columns in meta.shapes.values())
    weights = np.full(size, weight) if isinstance(weight, float) else np.array(list(weight))
    save_probe(folder, LoraProbe(meta, LinearProbe(weight=weights.astype(np.float32), bias=bias)))
    return str(folder)
