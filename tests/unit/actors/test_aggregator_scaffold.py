"""The aggregator with SCAFFOLD: what it hands out, whose control variates it takes, and a state that goes on to the bit."""

import pytest
import torch

from actors.wire import decode_tensors
from tests.unit.actors.builders import (
    A0,
    B0,
    SHAPES,
    TRAINING,
    deliver,
    filled,
    make_aggregator,
    scores,
    step_delta,
    update,
)

CORRECTED = TRAINING.model_copy(update={"scaffold": True, "max_grad_norm": 10.0})


def aggregator(level: str = "none", **settings):
    return make_aggregator(level, **{"training": CORRECTED} | settings)


def run_round(made, round_index: int, given: dict[str, float], flagged=(), num_known: int | None = 4):
    """A round in which every client is at 0 and its control variate is the given value; those in `flagged` weigh 0."""
    made.open_round(round_index, sorted(given), 0.5, num_known=num_known)
    sent = {"round_index": round_index, "base_version": made.state().version}
    return made.close_round(
        [
            deliver(
                made,
                name,
                update(name, 0.0, control_variate=filled(value), **sent),
                scores=scores(name, 0.9 if name in flagged else 0.1, branch="update", threshold=0.8),
            )
            for name, value in given.items()
        ]
    )


def handed_out(made, *clients: str, num_known: int | None = 4) -> dict[str, float]:
    """c - c_i of each client in a next round, which is not closed."""
    made.open_round(9, list(clients), 0.5, num_known=num_known)
    found = {}
    for client in clients:
        (found[client],) = {float(v) for t in decode_tensors(made.control_difference(client)).values() for v in t.reshape(-1)}
    return found


def test_the_first_round_corrects_nothing_and_the_next_one_by_the_mean():
    made = aggregator()
    assert handed_out(made, "a", "b") == {"a": 0.0, "b": 0.0}
    row = run_round(made, 0, {"a": 1.0, "b": -0.5}).clients[0]  # c = (1 - 0.5) / 4
    assert row.num_bytes == 2 * 12 * 4
    assert handed_out(made, "a", "b", "new") == {"a": 0.125 - 1.0, "b": 0.125 + 0.5, "new": 0.125}


def test_the_mean_is_over_all_that_the_federation_knows():
    made = aggregator()
    run_round(made, 0, {"a": 1.0, "b": 1.0})
    assert handed_out(made, "new", num_known=8) == {"new": 0.25}
    # Not known: the round's clients, and those that have a control variate.
    assert handed_out(made, "new", num_known=None) == {"new": pytest.approx(2 / 3)}


def test_a_client_of_weight_0_moves_nothing():
    made, without = aggregator("live"), aggregator("live")
    for each in (made, without):
        run_round(each, 0, {"a": 1.0, "b": 2.0})
    before = handed_out(made, "a", "b", "new")
    assert before["new"] == 0.75
    run_round(made, 1, {"a": 1.0, "b": -1.0, "late": 2.0}, flagged=("b", "late"))
    run_round(without, 1, {"a": 1.0})
    assert handed_out(made, "a", "b", "new") == before
    assert made.state().control_variates == without.state().control_variates


def test_a_client_counts_by_its_weight():
    made = aggregator("step")
    made.open_round(0, ["a"], 0.5, num_known=1)
    sent = update("a", 0.0, control_variate=filled(1.0))
    report = made.close_round([deliver(made, "a", sent, step_delta("a", 0.0), scores("a", 0.9, 0.1))])
    assert report.clients[0].weight == 0.5
    assert handed_out(made, "new", num_known=1) == {"new": 0.5}


@pytest.mark.parametrize(("outcome", "given"), [("skipped", {"a": 2.0, "b": 2.5, "c": -1.0}), ("no_quorum", {"a": 1.0})])
def test_only_aggregated_rounds_count(outcome, given):
    made = aggregator("live", min_updates=2)
    run_round(made, 0, {"a": 1.0, "b": 2.0})
    before = made.state().control_variates
    assert run_round(made, 1, given, flagged=("a", "b", "c")).outcome == outcome
    assert made.state().control_variates == before


@pytest.mark.parametrize(
    ("control", "detail"),
    [
        (None, "it is missing"),
        (filled(1.0, A0), "wrong_keys"),
        (filled(10.0), "its norm 34.64 is above the bound 10.1"),  # sqrt(12) x 10
    ],
)
def test_a_bad_control_variate_is_refused_with_its_update_and_changes_nothing(control, detail):
    made, without = aggregator(), aggregator()
    for each in (made, without):
        each.open_round(0, ["a", "b"], 0.5, num_known=2)
    answer, _ = made.admit("a", update("a", 1.0, control_variate=control))
    assert answer.reason.startswith(f"bad_control_variate: {detail}")
    for each in (made, without):
        each.close_round([deliver(each, "b", update("b", 0.5, control_variate=filled(1.0)))])
    assert made.state() == without.state()


def test_a_gradient_at_the_clipping_norm_is_admitted():
    made = aggregator()
    made.open_round(0, ["a"], 0.5)
    deliver(made, "a", update("a", 1.0, control_variate=filled(10 / 12**0.5)))


def test_without_scaffold_a_control_variate_is_refused_and_none_is_handed_out():
    made = aggregator(training=TRAINING)
    made.open_round(0, ["a"], 0.5)
    answer, _ = made.admit("a", update("a", 1.0, control_variate=filled(0.0)))
    assert answer.reason == "bad_control_variate: none was asked for, training.scaffold is off"
    with pytest.raises(RuntimeError, match=r"training\.scaffold is off"):
        made.control_difference("a")
    assert made.state().control_variates == b""


def test_with_a_frozen_only_b_has_a_control_variate():
    made = aggregator(averaging="ffa")
    made.open_round(0, ["a", "b"], 0.5, num_known=2)
    assert set(decode_tensors(made.control_difference("a"))) == {B0}
    state = filled(0.0, A0) | filled(1.0, B0)
    assert "wrong_keys" in made.admit("a", update("a", state, control_variate=filled(1.0)))[0].reason
    made.close_round([deliver(made, "b", update("b", state, control_variate=filled(1.0, B0)))])
    made.open_round(1, ["new"], 0.5, num_known=2)
    assert decode_tensors(made.control_difference("new"))[B0].tolist() == torch.full(SHAPES[B0], 0.5).tolist()


def test_a_run_goes_on_from_a_state_to_the_bit_and_forgets_when_it_is_set_back():
    straight, resumed = aggregator(), aggregator()
    begun = straight.state()
    assert begun.control_variates == b""
    run_round(straight, 0, {"a": 0.1, "b": 0.7})
    state = straight.state()
    resumed.restore(state)
    assert resumed.state() == state
    for made in (straight, resumed):
        run_round(made, 1, {"b": 0.3, "c": -0.9})
    assert straight.state() == resumed.state() != state
    assert handed_out(straight, "a", "b") == handed_out(resumed, "a", "b")
    resumed.restore(begun)
    assert resumed.state() == begun
