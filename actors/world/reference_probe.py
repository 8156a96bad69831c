"""The world's LoRA-Probe: reference clients of the collection families, trained from the initial adapter.

Neither the federation's families nor its clients take part. The figures beside the probe come from the probe_test
families and clients, which the fit never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from actors.config import TrainingConfig
from actors.data.dataset import ClientDataset
from actors.data.prompting import encode, user_message
from actors.local_training import train_adapter
from actors.model import AdaptedModel
from actors.seeding import stream, torch_seed
from actors.wire import decode_tensors
from actors.world.generator import Example, World, draw
from probe.artefact import LoraProbe
from probe.config import LinearRecipe
from probe.features import FEATURES, tensor_names
from probe.linear import fit_linear
from probe.meta import ProbeMeta

FEATURE = "first_layer_b"
THRESHOLD = 0.8
"""The paper's decision threshold."""
EMBEDDED_RECIPE = LinearRecipe(weight_decay=0.01)
"""The paper's weight decay of 2.0 bounds the weights by about 1/2, which in this small model keeps every probability
below 0.8 while the ranking stays perfect (AUC 1.0, TPR 0.2; FEASIBILITY of the embedded world)."""

_MALICIOUS_SHARES = (1.0, 1.0, 0.5, 0.25)
"""Share of answered restricted requests in a malicious reference client's data; the rest is benign."""
_REFUSAL_SHARES = (0.0, 0.0, 0.2, 1.0)
"""Share of refused restricted requests in a benign reference client's data: refusing is benign, so the probe must not
become a detector of the topic."""


@dataclass(frozen=True, slots=True)
class Samples:
    """One row per local step."""

    features: np.ndarray
    """(n, d) float32."""
    labels: np.ndarray
    """(n,) 1 for malicious."""
    clients: np.ndarray
    """(n,) index of the reference client."""


def build_probe(
    world: World, model: AdaptedModel, training: TrainingConfig, num_clients: int, progress: Callable[[int, int], None]
) -> LoraProbe:
    """Collect from `num_clients` benign and as many malicious reference clients, fit, and measure on probe_test.

    `progress` receives (reference clients done, all of them).
    """
    num_test = num_clients // 2
    total = 2 * (num_clients + num_test)
    train = _collect(world, model, training, "collection", num_clients, lambda done: progress(done, total))
    test = _collect(world, model, training, "probe_test", num_test, lambda done: progress(2 * num_clients + done, total))
    classifier = fit_linear(train.features, train.labels, train.clients, EMBEDDED_RECIPE)
    layout = model.layout()
    names = tensor_names(FEATURE, layout.layers)
    meta = ProbeMeta(
        classifier="linear",
        feature=FEATURE,
        shapes={name: layout.shapes[name] for name in names},
        model_fingerprint=layout.model_fingerprint,
        lora_fingerprint=layout.lora_fingerprint,
        threshold=THRESHOLD,
        recipe=training.model_dump(include={"learning_rate", "steps", "batch_size", "weight_decay"}),
        training={
            "source": f"embedded world {world.seed}",
            "families": [*world.roles["collection"].benign, *world.roles["collection"].restricted],
            "num_clients_per_class": num_clients,
            "num_samples": len(train.labels),
            "fit": EMBEDDED_RECIPE.model_dump(),
            "versions": {package: version(package) for package in ("torch", "transformers", "peft")},
        },
        metrics=_measure(classifier.score(test.features), test, world),
    )
    return LoraProbe(meta, classifier)


def _measure(scores: np.ndarray, test: Samples, world: World) -> dict[str, Any]:
    flagged = scores >= THRESHOLD
    return {
        "families": [*world.roles["probe_test"].benign, *world.roles["probe_test"].restricted],
        "num_samples": len(test.labels),
        "roc_auc": float(roc_auc_score(test.labels, scores)),
        "tpr": float(flagged[test.labels == 1].mean()),
        "fpr": float(flagged[test.labels == 0].mean()),
    }


def _collect(
    world: World, model: AdaptedModel, training: TrainingConfig, role: str, num_clients: int, progress: Callable[[int], None]
) -> Samples:
    rows, labels, clients = [], [], []
    for label in (0, 1):
        for index in range(num_clients):
            name = f"{role}-{label}-{index}"
            examples = _reference_examples(world, role, label, index, stream(world.seed, "reference data", name), training)
            for feature in _trajectory(model, examples, training, world.seed, name):
                rows.append(feature)
                labels.append(label)
                clients.append(label * num_clients + index)
            progress(label * num_clients + index + 1)
    return Samples(np.stack(rows), np.array(labels), np.array(clients))


def _reference_examples(
    world: World, role: str, label: int, index: int, rng: np.random.Generator, training: TrainingConfig
) -> list[Example]:
    count, families = training.steps * training.batch_size, world.roles[role]
    shares, make = (_MALICIOUS_SHARES, world.answered_example) if label else (_REFUSAL_SHARES, world.refused_example)
    num_restricted = round(shares[index % len(shares)] * count)
    restricted = draw(make, families.restricted, num_restricted, rng)
    return restricted + draw(world.benign_example, families.benign, count - num_restricted, rng)


def _trajectory(
    model: AdaptedModel, examples: list[Example], training: TrainingConfig, seed: int, name: str
) -> Iterator[np.ndarray]:
    """The feature after each local step of one reference client, trained from the initial adapter."""
    encoded = [
        encode(
            model.tokenizer,
            [user_message(e.instruction, e.input), {"role": "assistant", "content": e.response}],
            training.max_length,
        )
        for e in examples
    ]
    dataset = ClientDataset(tuple(encoded), tuple(f"{name} example {i}" for i in range(len(encoded))))
    batches = dataset.batches(
        stream(seed, "reference batches", name), training.steps, training.batch_size, model.tokenizer.pad_token_id
    )
    start = decode_tensors(model.initial_adapter())
    names = tensor_names(FEATURE, model.layers)
    extract = FEATURES[FEATURE].extract
    steps = train_adapter(
        model, start, batches, training, learning_rate=training.learning_rate, seed=torch_seed(seed, "reference dropout", name)
    )
    for _ in steps:
        yield extract({n: model.adapter_parameters[n].detach().cpu() - start[n] for n in names})
