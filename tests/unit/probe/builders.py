"""What several tests of the probe start from: samples, sample stores, and refusals."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from probe.samples import ReferenceLabel, Samples
from probe.store import SampleStore
from probe.store_meta import StoreMeta

A = "layers.0.q_proj.lora_A.weight"
B = "layers.0.q_proj.lora_B.weight"


def refused(*parts: object):
    """A ValueError that says all these parts, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(re.escape(str(part)) for part in parts))


def make_samples(labels, clients=None, families=None, steps=None, states=None, features=None) -> Samples:
    """Samples with these columns; each is a client and family of its own at step 1 from `initial` unless they say otherwise."""
    number = len(labels)
    own = np.array([f"c{i}" for i in range(number)], dtype=str)
    return Samples(
        features=np.zeros((number, 0), dtype=np.float32) if features is None else np.asarray(features, dtype=np.float32),
        labels=np.array(labels, dtype=int),
        clients=own if clients is None else np.array(clients),
        families=own if families is None else np.array(families),
        steps=np.ones(number, dtype=int) if steps is None else np.array(steps),
        states=np.full(number, "initial") if states is None else np.array(states),
    )


def make_store_meta(**changes) -> StoreMeta:
    fields = {
        "shapes": {B: (3, 2), A: (2, 4)},
        "layers": {B: 0, A: 0},
        "model_fingerprint": "model-1",
        "lora_fingerprint": "lora-1",
        "recipe": {"learning_rate": 1e-3, "steps": 2, "batch_size": 16, "weight_decay": 0.0},
    }
    return StoreMeta(**{**fields, **changes})


def make_label(client: str = "c0", **changes) -> ReferenceLabel:
    fields = {"client": client, "malicious": False, "family": "recipes", "source": "data/recipes.jsonl"}
    return ReferenceLabel(**{**fields, **changes})


def make_deltas(num: int = 2, seed: int = 0, shapes=None) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or make_store_meta().shapes
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(num)]


def make_store(folder: Path, *clients: str, **meta) -> SampleStore:
    """With two steps of each client, the first seeded 0, the next 1 ..."""
    store = SampleStore.create_or_open(folder, make_store_meta(**meta))
    for seed, client in enumerate(clients):
        store.append("initial", make_label(client), make_deltas(seed=seed))
    return store


def first_file(store: SampleStore) -> Path:
    return store.folder / "samples/state=initial/c0.parquet"


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def flat_b(delta) -> np.ndarray:
    return delta[B].reshape(-1).numpy()
