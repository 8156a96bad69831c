"""cluster/probes/references.py: flatness and agreement of a collection's final deltas, by hand."""

import pytest
import torch

from cluster.probes.references import measured_references
from cluster.probes.train import train_from_store
from probe.store import SampleStore
from probe.store_meta import StoreMeta
from tests.unit.probe.builders import make_label

A, B = "layers.0.q.lora_A.weight", "layers.0.q.lora_B.weight"
EVERY = StoreMeta(shapes={A: (2, 3), B: (3, 2)}, layers={A: 0, B: 0}, model_fingerprint="m", lora_fingerprint="l", recipe={})
STEP = {A: torch.full((2, 3), 9.0), B: torch.full((3, 2), 9.0)}
ONES = {A: torch.ones(2, 3), B: torch.ones(3, 2)}
DIAGONAL = {A: torch.eye(2, 3), B: torch.eye(3, 2)}


@pytest.fixture
def store(tmp_path):
    made = SampleStore.create_or_open(tmp_path / "store", EVERY)
    for state, client, malicious, delta in (
        ("initial", "c2", False, DIAGONAL),
        ("initial", "c1", False, ONES),
        ("later", "c1", False, ONES),
        ("later", "c2", False, ONES),
        ("initial", "bad", True, DIAGONAL),
    ):
        made.append(state, make_label(client, malicious=malicious), [STEP, delta])
    return made


def test_the_last_step_of_every_client_is_measured_and_compared_within_its_adapter_state(store):
    # Noise of shape (2, 3) has (6 + 2) / (2 + 3 + 1) = 4/3; c1 and c2 of the initial state have cosine 4 / sqrt(12 x 4).
    found = measured_references(store)
    assert found["flatness"] == {"benign": pytest.approx([0.75, 0.75, 1.5, 0.75]), "malicious": pytest.approx([1.5])}
    assert found["agreement"] == {"benign": pytest.approx([3**-0.5, 1, 3**-0.5, 1]), "malicious": []}


def test_a_store_of_the_first_layer_measures_nothing(tmp_path):
    meta = StoreMeta(shapes={B: (3, 2)}, layers={B: 0}, model_fingerprint="m", lora_fingerprint="l", recipe={})
    made = SampleStore.create_or_open(tmp_path, meta)
    made.append("initial", make_label(), [{B: torch.ones(3, 2)}])
    assert measured_references(made) == {}


def test_a_trained_probe_keeps_them(store, tmp_path):
    for name in ("bad2", "bad3"):
        store.append("initial", make_label(name, malicious=True, family=name), [DIAGONAL])
    meta = train_from_store(store.folder, ["probe.linear.max_epochs=1"], tmp_path / "probe").meta
    assert set(meta.references) == {"flatness", "agreement", "last_step_probability"}
