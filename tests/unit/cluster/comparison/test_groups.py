"""Groups of cells, with numbers that can be checked by hand."""

import numpy as np
import pytest

from cluster.comparison.groups import Spread, grouped, spread
from cluster.comparison.intervals import difference_interval, share_interval
from tests.unit.cluster.comparison.builders import done, failed, plan


def test_figures_are_averaged_over_the_seeds_that_have_them():
    cells = plan("seeds=0-3")
    outcomes = [
        done(cells[0], 0.9, tpr=1.0),
        done(cells[1], 0.6, tpr=None, rounds_skipped=3),
        done(cells[2], 0.9, tpr=0.5),
        failed(cells[3]),
    ]
    (group,) = grouped(outcomes)
    assert group.figures["rule_score"] == Spread(pytest.approx(0.8), 0.6, 0.9)
    assert group.figures["tpr"] == Spread(0.75, 0.5, 1.0)
    assert group.figures["rounds_skipped"] == Spread(1, 0, 3)
    assert group.figures["mean_weight_malicious"] is None
    assert (group.seeds, group.worst_seed, group.errors) == ((0, 1, 2), 1, {3: "no disk\nmore"})


def test_a_group_where_every_cell_failed_has_no_figures():
    (group,) = grouped([failed(cell) for cell in plan("seeds=0,1")])
    assert set(group.figures.values()) == {None}
    assert (group.seeds, group.worst_seed) == ((), None)


def test_seeds_share_a_group_and_its_hash():
    outcomes = [done(cell) for cell in plan("defenses=none,step", "seeds=0,1")]
    groups = grouped(outcomes)
    assert [group.label for group in groups] == ["none", "step"]
    assert [group.seeds for group in groups] == [(0, 1), (0, 1)]
    assert len({group.config_hash for group in groups}) == 2


def test_a_spread_ignores_what_is_unknown():
    assert spread([None, 1.0, 2.0]) == Spread(1.5, 1.0, 2.0)
    assert spread([None]) is None


def answers(**measures: str):
    """What `read_answers` returns: `answers(utility="110 01")` has two families."""
    return {
        name: tuple(np.array([int(digit) for digit in part], dtype=np.uint8) for part in digits.split())
        for name, digits in measures.items()
    }


def test_means_over_prompts_have_an_interval_and_others_none(kept):
    cells = plan("seeds=0,1")
    kept[cells[0].name] = answers(rule_score="1111", utility="10 1")
    kept[cells[1].name] = answers(rule_score="1101", utility="11 0")
    (group,) = grouped([done(cell, 0.9) for cell in cells])
    assert group.figures["rule_score"].interval == share_interval([np.array([[1, 1, 1, 1], [1, 1, 0, 1]])])
    utility = share_interval([np.array([[1, 0], [1, 1]]), np.array([[1], [0]])])
    assert group.figures["utility"].interval == utility
    assert group.figures["mean_weight_benign"].interval is None
    assert group.figures["compliance"].interval is None  # measured, but its prompts were not kept
    del kept[cells[1].name]
    (without,) = grouped([done(cell, 0.9) for cell in cells])
    assert without.figures["rule_score"].interval is None


def test_groups_are_compared_with_the_clean_one_of_their_world_at_the_seeds_that_both_have():
    cells = plan("defenses=none,shadow", "malicious=0,3", "worlds=0,1", "seeds=0,1")
    by_label = {cell.label: cell for cell in cells}
    scores = {"none, 0 malicious, world 0, seed 0": (1.0, 0.9), "none, 0 malicious, world 0, seed 1": (0.8, 0.8)}
    scores |= {"shadow, 3 malicious, world 0, seed 0": (0.9, 0.88), "shadow, 3 malicious, world 0, seed 1": (0.4, 0.85)}
    scores |= {"shadow, 3 malicious, world 1, seed 0": (0.3, 0.3)}
    outcomes = [done(by_label[label], rule, utility=utility) for label, (rule, utility) in scores.items()]
    clean, defended, elsewhere = grouped(outcomes)
    assert defended.figures["rule_vs_clean"] == Spread(pytest.approx((0.9 + 0.5) / 2), 0.5, 0.9)
    points = defended.figures["utility_vs_clean"]
    assert (points.mean, points.low, points.high) == pytest.approx((1.5, -2.0, 5.0))
    assert clean.figures["rule_vs_clean"].mean == 1.0
    assert (elsewhere.figures["rule_vs_clean"], elsewhere.figures["utility_vs_clean"]) == (None, None)
    (alone,) = grouped([*outcomes[:1], failed(by_label["none, 0 malicious, world 0, seed 1"])])
    assert alone.figures["utility_vs_clean"] == Spread(0, 0, 0)


def test_the_difference_to_the_clean_group_is_paired_by_seed_and_prompt(kept):
    cells = plan("defenses=none", "malicious=0,3", "seeds=0,1")
    digits = ["1110", "1100", "1010", "1100"]
    kept |= {cell.name: answers(utility=text) for cell, text in zip(cells, digits, strict=True)}
    outcomes = [done(cell, 1.0, utility=text.count("1") / 4) for cell, text in zip(cells, digits, strict=True)]
    _, attacked = grouped(outcomes)
    low, high = difference_interval([np.array([[1, 0, 1, 0], [1, 1, 0, 0]])], [np.array([[1, 1, 1, 0], [1, 1, 0, 0]])])
    assert attacked.figures["utility_vs_clean"].mean == pytest.approx(-12.5)
    assert attacked.figures["utility_vs_clean"].interval == pytest.approx((100 * low, 100 * high))
