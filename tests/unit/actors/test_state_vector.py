"""An adapter state as one vector: in order of name, and back to the same tensors."""

import numpy as np
import torch

from actors.state_vector import StateVector

SHAPES = {"b": (2, 1), "a": (3,), "c": ()}
STATE = {"b": torch.tensor([[4.0], [5.0]]), "a": torch.tensor([1.0, 2.0, 3.0]), "c": torch.tensor(6.0)}


def test_tensors_lie_in_order_of_name_and_come_back_as_views():
    layout = StateVector(SHAPES)
    vector = layout.pack(STATE)
    assert vector.tolist() == [1, 2, 3, 4, 5, 6]
    back = layout.unpack(vector)
    assert all(torch.equal(back[name], tensor) for name, tensor in STATE.items())
    vector[0] = 9
    assert (back["a"][0], STATE["a"][0]) == (9, 1)
    assert StateVector.of(STATE).shapes == layout.shapes == {name: SHAPES[name] for name in "abc"}


def test_an_array_that_is_read_only_is_read_as_a_copy():
    array = np.arange(6, dtype=np.float32)
    array.flags.writeable = False
    back = StateVector(SHAPES).read(array)
    back["a"][0] = 9
    assert (array[0], back["c"].dtype) == (0, torch.float32)


def test_a_layout_without_tensors_is_an_empty_vector():
    assert StateVector({}).unpack(StateVector({}).pack({})) == {}
