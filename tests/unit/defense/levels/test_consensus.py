"""Level consensus: which client pulls against the others, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from defense.bounds import FISHER, explicit_bound
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds, reference_values
from defense.levels import consensus
from defense.levels.agreement import agreements
from tests.unit.defense.levels.builders import gathered

CONFIG = DefenseConfig(level="consensus")
BOUND = explicit_bound(-0.1, "defense.consensus.min_cosine", side="below", scale=FISHER)


def play(cosines: list[float], **settings) -> tuple[list[float], dict]:
    """The weights of client a, round by round, and the last trust."""
    trust, weights = {}, []
    for cosine in cosines:
        given, trust = consensus.weigh(trust, {"a": cosine}, BOUND, **settings)
        weights.append(given["a"])
    return weights, trust


def test_old_rounds_fade():
    # From the bound of -0.1: -0.3; (0.5 x -0.3 + 0.4) / 1.5 = 0.167; (0.5 x 0.25 - 0.8) / 1.75 = -0.386.
    weights, trust = play([-0.4, 0.3, -0.9], decay=0.5)
    assert weights == [0, 1, 0]
    assert trust["a"] == {"excess": pytest.approx(-0.675), "rounds": pytest.approx(1.75)}


def test_a_round_counts_by_its_own_bound():
    # 0.4 below a bound of -0.1, then 0.3 above one of -0.8: (0.9 x -0.4 + 0.3) / 1.9 is below 0.
    trust = consensus.weigh({}, {"a": -0.5}, BOUND)[1]
    weights, trust = consensus.weigh(trust, {"a": -0.5}, explicit_bound(-0.8, "key", side="below", scale=FISHER))
    assert (weights, trust["a"]["excess"]) == ({"a": 0.0}, pytest.approx(-0.06))


@pytest.mark.parametrize(("cosines", "last"), [([-0.0999], 1), ([-0.1], 0), ([0.3] * 6 + [-0.3], 1), ([float("nan")], 0)])
def test_a_mean_at_or_below_the_bound_or_no_number_weighs_nothing(cosines, last):
    assert play(cosines)[0][-1] == last


def test_only_known_clients_are_outcasts():
    _, trust = play([-0.5])
    assert consensus.is_outcast(trust, "a", BOUND)
    assert not consensus.is_outcast(trust, "b", BOUND)


def test_clients_that_turn_their_updates_are_excluded_and_then_have_no_say():
    rng = np.random.default_rng(0)
    common, trust = rng.normal(size=200), {}
    for _ in range(2):
        rows = [common + rng.normal(size=200) for _ in range(7)] + [-common + rng.normal(size=200) for _ in range(3)]
        found = consensus.compare(CONFIG, trust, gathered([row.tolist() for row in rows]), BOUND)
        assert [found.weights[f"c{i}"] > 0 for i in range(10)] == [True] * 7 + [False] * 3
        trust = found.trust
    # Honest clients are now compared with honest ones only: the common part's cosine, about 6 / sqrt(6 x 7) x sqrt(1/2).
    assert min(found.values[f"c{i}"]["agreement"] for i in range(7)) > 0.55


def test_a_few_identical_updates_cannot_exclude_everybody_else():
    # Honest clients of a task each have nothing in common; three send the opposite of their mean.
    honest = np.eye(7)
    everybody = gathered([*honest.tolist(), *[(-honest.sum(0)).tolist()] * 3])
    assert max(agreements(everybody, [1] * 10)) < -0.1
    found = consensus.compare(CONFIG, {}, everybody, BOUND)
    assert found.weights == {f"c{i}": pytest.approx(1 if i < 7 else 1 / 3) for i in range(10)}  # the three are one, sent thrice
    assert found.trust == {}


def test_a_group_that_sends_the_same_has_the_say_of_one_among_the_others():
    # To c0 the others are (0, 1), and (1, 0) four times, which count as one: 45 degrees.
    found = consensus.compare(CONFIG, {}, gathered([[1, 0], [0, 1], [1, 0], [1, 0], [1, 0], [0, -1]]), BOUND)
    assert found.values["c0"]["copies"] == pytest.approx(4)


def test_without_a_verdict_a_client_that_was_excluded_before_stays_excluded():
    known = {"c1": {"excess": -0.5, "rounds": 1.0}}
    found = consensus.compare(CONFIG, known, gathered([[1, 0], [1, 0], [-1, 0], [-1, 0]]), BOUND)  # c0 and c1: half of them
    assert found.weights == {"c0": 1.0, "c1": 0.0, "c2": 1.0, "c3": 1.0}
    assert found.trust == known


def test_its_bound_follows_from_references_and_separates_unless_they_leave_no_room_below_it():
    # z of 0.2, 0.3, 0.4: s = 0.1, t_2 at 0.95 is 2.92: 0.337 below the mean of 0.3, so -0.037.
    config = DefenseConfig(level="consensus", false_positive_rate=0.05)
    known = reference_values(config, {"agreement": np.tanh([0.2, 0.3, 0.4])}, {}, "round 3")
    bound = level_bounds(config, known)["consensus"]
    assert (bound.state, bound.limit) == ("in force", pytest.approx(-0.037, abs=1e-3))
    assert known["agreement"].unsafe == (-1.0,)
    known = reference_values(config, {"agreement": np.tanh([-5.0, 0.1, 5.0])}, {}, "round 3")
    assert level_bounds(config, known)["consensus"].state == "abstains"


def test_it_abstains_for_everybody_and_without_a_bound_nobody_passes():
    turned = gathered([[1, 0], [1, 0], [1, 0], [-1, 0]])
    found = consensus.compare(CONFIG, {}, turned, replace(BOUND, state="abstains"))
    assert set(found.weights.values()) == {1.0}
    found = consensus.compare(CONFIG, {}, turned, replace(BOUND, state="missing"))
    assert set(found.weights.values()) == {0.0}


def test_what_is_held_against_the_bound_lies_as_far_from_it_as_the_clients_rounds_in_the_mean():
    known = {"c0": {"excess": -2.0, "rounds": 1.0}}
    found = consensus.compare(CONFIG, known, gathered([[1, 0], [1, 0], [1, 0], [1, 0]]), BOUND)
    assert found.judged["c0"] == pytest.approx(-0.1 + (0.9 * -2.0 + 1.1) / 1.9)
    assert found.judged["c1"] == pytest.approx(1.0)
    assert [found.weights[f"c{i}"] for i in range(4)] == [0, 1, 1, 1]
