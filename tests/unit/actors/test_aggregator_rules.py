"""The aggregator with other rules than FedAvg, and with server optimizers: what reaches them, and what the state remembers."""

import pytest

from defense.optimizers import OPTIMIZERS
from tests.unit.actors.builders import make_aggregator, run_round, value_of

CLIPPING = {"rule": "centered_clipping", "centered_clipping": {"radius": 0.5}}
REMEMBERING = [CLIPPING, {"rule": "foolsgold"}, *({"optimizer": name} for name in OPTIMIZERS if name != "none")]


def around(made, *moves: float) -> dict[str, float]:
    """Updates of clients c0, c1 ... that moved the global adapter so far."""
    start = value_of(made)
    return {f"c{i}": start + move for i, move in enumerate(moves)}


def test_the_configured_rule_aggregates_deltas():
    made = make_aggregator(rule="median")
    run_round(made, {"a": 1.0, "b": 2.0, "c": 4.0})
    assert value_of(made) == 2.0
    run_round(made, {"a": 2.5, "b": 3.0, "c": -1.0}, 1)  # deltas 0.5, 1 and -3
    assert value_of(made) == 2.5


def test_krum_and_multi_krum_drop_the_outlier():
    values = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 1.25, "e": 4.0}
    krum, multi_krum = (make_aggregator(rule=rule, f=1) for rule in ("krum", "multi_krum"))
    assert "f=" not in run_round(krum, values).why
    run_round(multi_krum, values)
    assert value_of(krum) == 1.25  # 1/4 and 1/4 away from a and b; so is b, from d, but c is farther: 1/2
    assert value_of(multi_krum) == pytest.approx((1 + 1.5 + 2 + 1.25) / 4)


def test_a_lowered_f_is_reported():
    made = make_aggregator(rule="multi_krum", f=3)
    report = run_round(made, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 4.0})
    assert report.outcome == "aggregated"
    assert "aggregation.f=3 was lowered to 1" in report.why
    assert value_of(made) == 1.0


def test_clients_that_weigh_nothing_do_not_reach_the_rule():
    made = make_aggregator("live", rule="median")  # by themselves two of three would be the median
    report = run_round(made, {"a": 3.0, "b": 3.0, "c": 1.0}, flagged="ab")
    assert [row.weight for row in report.clients] == [0, 0, 1]
    assert value_of(made) == 1.0


def test_chance_follows_from_seed_and_round():
    def adapter_after(seed: int, round_index: int = 0) -> bytes:
        made = make_aggregator(rule="flame", seed=seed)
        run_round(made, {"a": 1.0, "b": 1.0, "c": 1.0}, round_index)
        return made.adapter()

    assert adapter_after(0) == adapter_after(0)
    assert adapter_after(0) != adapter_after(1)
    assert adapter_after(0) != adapter_after(0, round_index=1)


# Server optimizers


def test_momentum_carries_the_adapter_on():
    made, values = make_aggregator(optimizer="fedavgm", fedavgm={"momentum": 0.5}), []
    for round_index, moves in enumerate([(1.0, 3.0), (0.0, 0.0), (0.0, 0.0), (-3.0, -3.0)]):
        run_round(made, around(made, *moves), round_index)
        values.append(value_of(made))
    assert values == [2.0, 3.0, 3.5, 0.75]  # by 2, 1, 0.5 and 0.25 - 3


def test_fedadam_by_hand():
    # v = (1 + 1) / 2, (1 + 9) / 2 and m = 0.5, 1.75: by 0.25 and 1.75 / (sqrt(5) + 1).
    made = make_aggregator(optimizer="fedadam", fedadam={"tau": 1, "learning_rate": 1, "beta1": 0.5, "beta2": 0.5})
    for round_index, move in enumerate((1.0, 3.0)):
        run_round(made, around(made, move), round_index)
    assert value_of(made) == pytest.approx(0.25 + 1.75 / (5**0.5 + 1))


def test_the_optimizer_is_given_what_the_rule_makes_of_the_updates():
    made = make_aggregator(rule="median", optimizer="fedavgm", fedavgm={"learning_rate": 0.5})
    run_round(made, {"a": 1.0, "b": 2.0, "c": 4.0})
    assert value_of(made) == 1.0


# What is remembered


@pytest.mark.parametrize("settings", REMEMBERING)
def test_a_run_goes_on_from_a_state_to_the_bit_and_forgets_when_it_is_set_back(settings):
    straight, resumed = make_aggregator(**settings), make_aggregator(**settings)
    begun = straight.state()
    assert (begun.rule_memory, begun.optimizer_memory) == (b"", b"")
    for round_index in range(2):
        run_round(straight, around(straight, 0.3, 0.5), round_index)
    state = straight.state()
    assert state.rule_memory or state.optimizer_memory
    resumed.restore(state)
    assert resumed.state() == state
    for made in (straight, resumed):
        run_round(made, around(made, 0.1, 0.7), 2)
    assert straight.state() == resumed.state() != state
    resumed.restore(begun)
    assert resumed.state() == begun


@pytest.mark.parametrize("settings", REMEMBERING)
def test_a_skipped_round_and_one_without_quorum_leave_everything_to_the_bit(settings):
    made = make_aggregator("live", min_updates=2, **settings)
    run_round(made, around(made, 0.3, 0.5))
    before = made.state()
    assert run_round(made, around(made, 0.3, 0.5), 1, flagged=("c0", "c1")).outcome == "skipped"
    assert run_round(made, around(made, 0.3), 2).outcome == "no_quorum"
    assert made.state() == before
