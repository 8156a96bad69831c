"""Attackers' little trainings with labels, and the probe that they fit to them."""

import pytest
import torch

from actors.data.dataset import load_dataset
from actors.simulation.surrogate import LittleTrainings, Rows, fit_surrogate
from actors.wire import decode_tensors
from tests.unit.actors.sent import equal
from tests.unit.actors.simulation.builders import TRAINING


@pytest.fixture(scope="module")
def trainings(client, start, data) -> LittleTrainings:
    benign, unsafe, refused = (load_dataset(data(holding)) for holding in ("honest", "unsafe", "refused"))
    return LittleTrainings(
        model=client._model,
        start=decode_tensors(start),
        rows=[Rows(benign=benign, unsafe=unsafe, refused=refused)],
        training=TRAINING,
        learning_rate=0.01,
        frozen=frozenset(name for name in client.layout().shapes if "layers.2." in name),
        seed=0,
        round_index=0,
    )


@pytest.fixture(scope="module")
def runs(trainings):
    return trainings.run(3)


def test_each_class_has_its_trainings_and_each_training_its_steps(runs):
    assert [(run.malicious, run.number) for run in runs] == [(False, 0), (False, 1), (False, 2), (True, 0), (True, 1), (True, 2)]
    assert {len(run.deltas) for run in runs} == {TRAINING.steps}
    ends = [run.deltas[-1] for run in runs]
    assert len({float(next(iter(end.values())).sum()) for end in ends}) == 6  # each has rows of its own
    assert all(bool(tensor.any()) != ("layers.2." in name) for name, tensor in ends[0].items() if ".lora_B." in name)


def test_trainings_repeat_themselves_to_the_bit(trainings, runs):
    assert all(equal(one.deltas[-1], other.deltas[-1]) for one, other in zip(trainings.run(3), runs, strict=True))


def test_the_surrogate_reads_what_the_probe_reads_and_tells_its_own_trainings_apart(runs, shipped_probe):
    surrogate = fit_surrogate(runs, shipped_probe.meta)
    assert (surrogate.meta.feature, surrogate.meta.shapes) == (shipped_probe.meta.feature, shipped_probe.meta.shapes)
    scores = surrogate.score([run.deltas[-1] for run in runs])
    assert max(scores[:3]) < min(scores[3:])
    assert torch.tensor(scores).isfinite().all()
