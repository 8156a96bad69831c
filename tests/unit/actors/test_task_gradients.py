"""What an update does to a task, to first order, against the loss itself."""

import math

import pytest
import torch

from actors.data.dataset import load_dataset
from actors.data.encoding import collate
from actors.local_training import response_losses
from actors.state_vector import StateVector
from actors.task_gradients import TaskGradients
from actors.wire import decode_tensors
from actors.world.datasets import write_validation


@pytest.fixture(scope="module")
def tasks(world, tokens_of, tmp_path_factory):
    """Two tasks of which the model knows little."""
    files = sorted(write_validation(world, tmp_path_factory.mktemp("tasks"), 40).iterdir())[:2]
    datasets = [load_dataset(tokens_of(path, max_length=64)) for path in files]
    return [[collate(dataset.examples[start : start + 3]) for start in range(0, len(dataset), 3)] for dataset in datasets]


def answer_loss(model, state, batches) -> float:
    model.load_adapter(state)
    losses = [loss for batch in batches for loss in response_losses(model, batch)]
    return math.fsum(losses) / len(losses)


def test_losses_and_rises_are_those_of_the_tasks_answers(model, tasks):
    start = decode_tensors(model.initial_adapter())
    found = TaskGradients.at(start, model, tasks)
    assert found.answer_losses == pytest.approx([answer_loss(model, start, batches) for batches in tasks], rel=1e-5)
    layout = StateVector.of(start)
    worst = 0 if float(found.vectors[0].norm()) > float(found.vectors[1].norm()) else 1
    towards_D = found.vectors[worst] / found.vectors[worst].norm()
    rise, cosine = found.harm(1e-3 * towards_D)
    assert cosine == pytest.approx(1.0, abs=1e-6)
    assert rise == pytest.approx(1e-3 * float(found.vectors[worst].double().norm()), rel=1e-6)
    step = layout.unpack(1e-3 * towards_D)
    moved, back = ({name: start[name] + sign * part for name, part in step.items()} for sign in (1, -1))
    exact = (answer_loss(model, moved, tasks[worst]) - answer_loss(model, back, tasks[worst])) / 2
    assert rise == pytest.approx(exact, rel=0.02)


def test_the_task_that_is_harmed_most_counts():
    two = TaskGradients([torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])], [1.0, 1.0], 1.0)
    assert two.harm(torch.tensor([0.5, 0.25])) == pytest.approx((1.0, 0.8))
    assert two.harm(torch.tensor([-4.0, 1.0])) == pytest.approx((1.0, 1 / math.sqrt(17)))
    assert two.harm(torch.zeros(2)) == (0.0, 0.0)


def test_gradients_leave_nothing_behind(model, tasks):
    start = decode_tensors(model.initial_adapter())
    first = TaskGradients.at(start, model, tasks)
    assert all(parameter.grad is None for parameter in model.adapter_parameters.values())
    again = TaskGradients.at(start, model, tasks)
    assert all(torch.equal(one, other) for one, other in zip(first.vectors, again.vectors, strict=True))
