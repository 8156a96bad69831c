"""What TensorBoard's own reader finds in the event files."""

from dataclasses import replace

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'safe-fedllm[tensorboard]'")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.tracking.tensorboard import TensorBoard
from tests.unit.cluster.tracking.runs import listen


def read(run) -> EventAccumulator:
    found = EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    return found


def points(found: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)]


def text(found: EventAccumulator, name: str) -> str:
    return found.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()


def test_figures_by_rounds_done_parameters_and_where_the_adapter_lies(run):
    listen(TensorBoard(run), run)
    found = read(run)
    assert points(found, "evaluation/rule_score") == [(0, 0.9), (2, 0.8)]
    assert points(found, "round/clients") == [(1, 2), (2, 1)]
    assert "    rounds: 2" in text(found, "parameters").splitlines()
    assert text(found, "adapter").strip() == str(run.path / "adapter")


def test_a_resumed_run_replaces_what_it_repeats(run):
    listen(TensorBoard(run), run, to_the_end=False)
    resumed = TensorBoard(replace(run, rounds_done=1))
    resumed.log({"round/clients": 7.0}, 2)
    resumed.close(is_whole=True)
    assert points(read(run), "round/clients") == [(1, 2), (2, 7)]
