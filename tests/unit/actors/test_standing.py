"""actors/standing.py: what is committed comes back from its encoding, and an earlier standing is not touched by a later one."""

import torch

from actors.scaffold import ControlVariates
from actors.standing import Standing, decoded
from actors.wire import encode_tensors
from defense.bounds import ReferenceValues
from defense.config import DefenseConfig
from tests.unit.actors.builders import A0, B0, SHAPES, filled

EMPTY = ControlVariates(SHAPES)
FIRST = Standing(adapter=filled(1.0), adapter_bytes=encode_tensors(filled(1.0)), version=3, controls=EMPTY)


def test_a_move_is_the_next_version_and_keeps_what_it_does_not_name():
    controls = EMPTY.moved({"a": (1.0, filled(0.5))})
    moved = FIRST.moved({B0: torch.full(SHAPES[B0], 2.0)}, rule_memory=filled(3.0), optimizer_memory={}, controls=controls)
    assert moved.version == 4
    assert (moved.adapter[A0].unique().item(), moved.adapter[B0].unique().item()) == (1.0, 2.0)
    assert moved.adapter_bytes == encode_tensors({**filled(1.0), **filled(2.0, B0)})
    assert FIRST.adapter[B0].unique().item() == 1.0
    assert FIRST.controls.own == {}


def test_it_comes_back_from_the_state_to_the_bit():
    references = {"flatness": ReferenceValues(benign=(0.1, 0.2, 0.3), unsafe=(1.0,), origin="round 3")}
    whole = Standing(
        adapter=filled(1.0),
        adapter_bytes=encode_tensors(filled(1.0)),
        version=3,
        controls=EMPTY.moved({"a": (1.0, filled(0.5))}),
        trust={"consensus": {"a": {"excess": 0.1, "rounds": 1.0}}},
        rule_memory=filled(3.0),
        references=references,
    )
    state = whole.encoded(DefenseConfig(level="canary"))
    assert state.optimizer_memory == b""
    again = decoded(state, EMPTY)
    assert again.encoded(DefenseConfig(level="canary")) == state
    assert (again.version, again.trust, again.references, again.optimizer_memory) == (3, whole.trust, references, {})
