"""The aggregator with SCAFFOLD: what it hands out, whose control variates it takes, and a state that goes on to the bit."""

import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.messages import ProbeScore
from actors.wire import decode_tensors
from defense.config import AggregationConfig, DefenseConfig
from tests.unit.actors.builders import A0, B0, LAYOUT, SHAPES, START_BYTES, TRAINING, UNBOUNDED, scores, step_delta, update

CORRECTED = TRAINING.model_copy(update={"scaffold": True, "max_grad_norm": 10.0})


def aggregator(level: str = "none", *, training=CORRECTED, min_updates: int = 1, **aggregation) -> Aggregator:
    config = AggregatorConfig(
        training=training,
        defense=DefenseConfig(level=level),
        aggregation=AggregationConfig(**aggregation),
        admission=UNBOUNDED,
        min_updates=min_updates,
    )
    return Aggregator(config, LAYOUT, START_BYTES)


def control(value: float, *names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full(SHAPES[name], value) for name in names or SHAPES}


def run_round(made: Aggregator, round_index: int, given: dict[str, float], flagged=(), num_known: int | None = 4):
    """A round in which every client is at 0 and its control variate is the given value; those in `flagged` weigh 0."""
    made.open_round(round_index, sorted(given), 0.5, num_known=num_known)
    version = made.state().version
    for name, value in sorted(given.items()):
        sent = update(name, 0.0, round_index=round_index, base_version=version, control_variate=control(value))
        p = 0.9 if name in flagged else 0.1
        made.submit(name, sent, None, [ProbeScore(client_id=name, branch="update", step=1, probability=p, threshold=0.8)])
    return made.close_round()


def handed_out(made: Aggregator, *clients: str, num_known: int | None = 4) -> dict[str, float]:
    """c - c_i of each client in a next round, which is not closed."""
    made.open_round(9, list(clients), 0.5, num_known=num_known)
    found = {}
    for client in clients:
        (found[client],) = {float(v) for t in decode_tensors(made.control_difference(client)).values() for v in t.reshape(-1)}
    return found


def test_the_first_round_corrects_nothing_and_the_next_one_by_the_mean():
    made = aggregator()
    assert handed_out(made, "a", "b") == {"a": 0.0, "b": 0.0}
    run_round(made, 0, {"a": 1.0, "b": -0.5})  # c = (1 - 0.5) / 4
    assert handed_out(made, "a", "b", "new") == {"a": 0.125 - 1.0, "b": 0.125 + 0.5, "new": 0.125}


def test_the_mean_is_over_all_that_the_federation_knows():
    made = aggregator()
    run_round(made, 0, {"a": 1.0, "b": 1.0})
    assert handed_out(made, "new", num_known=8) == {"new": 0.25}
    # Not told: the round's clients, and those who have a control variate.
    assert handed_out(made, "new", num_known=None) == {"new": pytest.approx(2 / 3)}


def test_a_client_of_weight_0_moves_nothing():
    made, without = aggregator("live"), aggregator("live")
    run_round(made, 0, {"a": 1.0, "b": 2.0})
    before = handed_out(made, "a", "b", "new")
    assert before["new"] == 0.75
    run_round(made, 1, {"a": 1.0, "b": -1.0, "late": 2.0}, flagged=("b", "late"))
    assert handed_out(made, "a", "b", "new") == before
    run_round(without, 0, {"a": 1.0, "b": 2.0})
    run_round(without, 1, {"a": 1.0})
    assert made.state().control_variates == without.state().control_variates


def test_a_client_counts_by_its_weight():
    made = aggregator("step")
    made.open_round(0, ["a"], 0.5, num_known=1)
    delta = {B0: torch.zeros(SHAPES[B0])}
    made.submit("a", update("a", 0.0, control_variate=control(1.0)), step_delta("a", 0, tensors=delta), scores("a", 0.9, 0.1))
    assert made.close_round().clients[0].weight == 0.5
    assert handed_out(made, "new", num_known=1) == {"new": 0.5}


@pytest.mark.parametrize(
    ("outcome", "arguments"), [("skipped", {"flagged": ("a", "b", "c")}), ("no_quorum", {"given": {"a": 1.0}})]
)
def test_only_aggregated_rounds_count(outcome, arguments):
    made = aggregator("live", min_updates=2)
    run_round(made, 0, {"a": 1.0, "b": 2.0})
    before = made.state().control_variates
    assert run_round(made, 1, **{"given": {"a": 2.0, "b": 2.5, "c": -1.0}, **arguments}).outcome == outcome
    assert made.state().control_variates == before


BAD = {
    "it is missing": None,
    "wrong_keys": control(1.0, A0),
    "wrong_shape": control(1.0) | {A0: torch.ones(3, 2)},
    "wrong_dtype": control(1.0) | {A0: torch.ones(2, 3).double()},
    "not_finite": control(float("nan")),
    "its norm 34.64 is above the bound 10.1": control(10.0),  # sqrt(12) * 10
}


@pytest.mark.parametrize("detail", BAD)
def test_a_bad_control_variate_is_refused_with_its_update_and_changes_nothing(detail):
    made, without = aggregator(), aggregator()
    for each in (made, without):
        each.open_round(0, ["a", "b"], 0.5, num_known=2)
    answer = made.submit("a", update("a", 1.0, control_variate=BAD[detail]), None, [])
    assert not answer.admitted
    assert answer.reason.startswith("bad_control_variate: ")
    assert detail in answer.reason
    for each in (made, without):
        assert each.submit("b", update("b", 0.5, control_variate=control(1.0)), None, []).admitted
        each.close_round()
    assert made.state() == without.state()


def test_a_gradient_at_the_clipping_norm_is_admitted():
    made = aggregator()
    made.open_round(0, ["a"], 0.5)
    assert made.submit("a", update("a", 1.0, control_variate=control(10 / 12**0.5)), None, []).admitted


def test_without_scaffold_a_control_variate_is_refused_and_none_is_handed_out():
    made = aggregator(training=TRAINING)
    made.open_round(0, ["a"], 0.5)
    answer = made.submit("a", update("a", 1.0, control_variate=control(0.0)), None, [])
    assert answer.reason == "bad_control_variate: none was asked for, training.scaffold is off"
    with pytest.raises(RuntimeError, match=r"training\.scaffold is off"):
        made.control_difference("a")
    assert made.state().control_variates == b""


def test_with_a_frozen_only_b_has_a_control_variate():
    made = aggregator(averaging="ffa")
    made.open_round(0, ["a", "b"], 0.5)
    assert set(decode_tensors(made.control_difference("a"))) == {B0}
    state = {A0: torch.zeros(SHAPES[A0]), B0: torch.ones(SHAPES[B0])}
    assert "wrong_keys" in made.submit("a", update("a", 0, tensors=state, control_variate=control(1.0)), None, []).reason
    assert made.submit("b", update("b", 0, tensors=state, control_variate=control(1.0, B0)), None, []).admitted


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


def test_the_bytes_of_a_control_variate_are_counted():
    row = run_round(aggregator(), 0, {"a": 1.0}).clients[0]
    assert row.num_bytes == 2 * 12 * 4
