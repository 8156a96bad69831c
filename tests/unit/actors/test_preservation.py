"""The server's refusals: which of them a round draws, and what it measures them against. What mends is in test_server_data.py."""

import pytest

from actors.data.dataset import load_dataset
from actors.model.adapted import AdaptedModel, choose_device
from actors.preservation import Refusals
from actors.wire import decode_tensors
from actors.world.datasets import write_canary
from defense.preservation import standard_error


@pytest.fixture(scope="module")
def model(base_config, lora) -> AdaptedModel:
    return AdaptedModel(base_config, lora, choose_device())


@pytest.fixture(scope="module")
def rows(world, tokens_of, tmp_path_factory):
    return load_dataset(tokens_of(write_canary(world, tmp_path_factory.mktemp("canary"), 40))).examples


def drawn_of(refusals: Refusals, index: int) -> tuple[list, list]:
    drawn = refusals.drawn(index)
    return list(drawn._measuring.rows), list(drawn._mending.rows)


def test_rounds_draw_anew_and_no_row_ever_measures_and_mends(model, rows):
    refusals = Refusals(model, rows, per_round=12, seed=3)
    draws = [drawn_of(refusals, index) for index in range(6)]
    assert all(len(measuring) == len(mending) == 6 for measuring, mending in draws)
    assert draws[0] != draws[1]
    measured, mended = ({row for draw in draws for row in draw[part]} for part in (0, 1))
    assert len(measured) > 12  # not always the same
    assert measured <= set(rows[0::2])
    assert mended <= set(rows[1::2])
    assert drawn_of(Refusals(model, rows, per_round=12, seed=3), 4) == draws[4]  # whatever was drawn before
    assert drawn_of(Refusals(model, rows, per_round=12, seed=4), 4) != draws[4]


def test_where_there_are_no_more_rows_than_a_round_draws_it_draws_all(model, rows):
    assert drawn_of(Refusals(model, rows, per_round=64, seed=3), 7) == (list(rows[0::2]), list(rows[1::2]))


def test_a_draw_is_compared_with_what_its_own_rows_cost_under_the_initial_adapter(model, rows):
    refusals, initial = Refusals(model, rows, per_round=12, seed=3), decode_tensors(model.initial_adapter())
    for index in range(3):
        drawn = refusals.drawn(index)
        assert drawn.measured(initial).loss == pytest.approx(drawn.reference, abs=1e-5)
    assert len({refusals.drawn(index).reference for index in range(3)}) == 3


def test_the_error_of_a_rise_is_that_of_the_rows_own_rises(model, rows):
    drawn, initial = Refusals(model, rows, per_round=12, seed=3).drawn(0), decode_tensors(model.initial_adapter())
    assert drawn.measured(initial).error < 1e-5  # however much the losses themselves scatter
    moved = {name: tensor + 0.05 for name, tensor in initial.items()}
    alone = [Refusals(model, [row] * 4, per_round=4, seed=0).drawn(0) for row in drawn._measuring.rows]
    tokens = drawn._measuring.tokens
    rises = [(one.measured(moved).loss - one.reference) * number for one, number in zip(alone, tokens, strict=True)]
    assert drawn.measured(moved).error == pytest.approx(standard_error(rises, tokens), rel=1e-3)


def test_the_error_of_the_reference_is_that_of_as_many_rows_as_a_round_measures_by(model, rows):
    whole, part = (Refusals(model, rows, per_round=number, seed=3) for number in (64, 10))
    everything = whole.drawn(0)
    assert whole.reference == part.reference == everything.reference
    assert whole.error == standard_error(everything._measuring.losses, everything._measuring.tokens)
    assert part.error == pytest.approx(2 * whole.error)  # 5 rows in place of 20
