"""Small updates and rounds over a hand-made adapter layout, for tests of probe and aggregator without a model."""

import torch

from actors.config import TrainingConfig
from actors.messages import AdapterLayout, LoRAUpdate, ProbeScore, StepDelta, TrainTask
from actors.wire import encode_message, encode_tensors
from defense.config import AdmissionConfig

B0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SHAPES = {A0: (2, 3), B0: (3, 2)}
LAYOUT = AdapterLayout(shapes=SHAPES, layers=dict.fromkeys(SHAPES, 0), model_fingerprint="m", lora_fingerprint="l")
UNBOUNDED = AdmissionConfig(value_factor=None, product_factor=None)
"""For deltas that are round numbers; the bounds on values and products have tests of their own."""
TRAINING = TrainingConfig(steps=2, batch_size=4, learning_rate=0.5, min_learning_rate=0.1)
START = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
START_BYTES = encode_tensors(START)


def train_task(files: tuple[str, ...], **changes) -> TrainTask:
    """What client a is asked to do in the first round, with these fields changed."""
    fields = {
        "client_id": "a",
        "round_index": 0,
        "base_version": 0,
        "files": files,
        "learning_rate": 0.01,
        "seed": 0,
        "probe_feature": "first_layer_b",
    }
    return TrainTask(**(fields | changes))


def update(client_id: str, value: float, *, tensors=None, **fields) -> bytes:
    """An encoded update whose tensors are all `value`, from a start of zeros."""
    state = tensors if tensors is not None else {name: torch.full(shape, value) for name, shape in SHAPES.items()}
    defaults = {"round_index": 0, "base_version": 0, "num_samples": 8, "loss": 1.0, "train_s": 0.1}
    return encode_message(LoRAUpdate(client_id=client_id, tensors=state, **(defaults | fields)))


def step_delta(client_id: str, value: float, step: int = 2, *, branch="real", tensors=None, **fields) -> bytes:
    """An encoded step delta of the tensors that first_layer_b reads, all `value`."""
    state = tensors if tensors is not None else {B0: torch.full(SHAPES[B0], value)}
    defaults = {"round_index": 0, "base_version": 0, "num_samples": 4}
    return encode_message(StepDelta(client_id=client_id, branch=branch, step=step, tensors=state, **(defaults | fields)))


def scores(client_id: str, *probabilities: float, branch="real") -> list[ProbeScore]:
    """A probe score per step, in order."""
    return [
        ProbeScore(client_id=client_id, branch=branch, step=step, probability=p, probe_version=1)
        for step, p in enumerate(probabilities, start=1)
    ]
