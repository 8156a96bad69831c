"""Rows of cells and their groups, with numbers that can be checked by hand."""

import numpy as np
import pytest

from cluster.comparison.figures import (
    Spread,
    attack_name,
    cell_answers,
    cell_rows,
    defense_name,
    group_rows,
    heat_map,
    spread,
    worst_attacks,
)
from cluster.comparison.intervals import difference_interval, share_interval
from tests.unit.cluster.comparison.builders import done, failed, plan


def test_a_row_has_the_place_the_figures_and_the_interval():
    (cell,) = plan("defenses=shadow:median", "seeds=4", "rounds=2")
    (row,) = cell_rows([done(cell, 0.9)])
    assert (row["defense"], row["rule"], row["attack"], row["malicious"]) == ("shadow", "median", "unaligned", 3)
    assert (row["world"], row["seed"]) == (0, 4)
    assert (row["status"], row["error"], row["cell"]) == ("done", None, "shadow-median_seed-4")
    assert (row["rule_score"], row["rule_score_low"], row["rule_score_high"], row["base_utility"]) == (0.9, 0.8, 0.95, 0.5)
    assert not {"verdicts_by_round", "intervals", "base", "defense_level"} & set(row)


def test_a_run_that_was_stopped_says_so():
    (cell,) = plan("seeds=0")
    assert [row["status"] for row in cell_rows([done(cell, rounds_done=1), failed(cell)])] == ["stopped", "failed"]


def test_figures_are_averaged_over_the_seeds_that_have_them():
    cells = plan("seeds=0-3")
    outcomes = [
        done(cells[0], 0.9, tpr=1.0),
        done(cells[1], 0.6, tpr=None, rounds_skipped=3),
        done(cells[2], 0.9, tpr=0.5),
        failed(cells[3]),
    ]
    (group,) = group_rows(cell_rows(outcomes))
    assert group.figures["rule_score"] == Spread(pytest.approx(0.8), 0.6, 0.9, 3)
    assert group.figures["tpr"] == Spread(0.75, 0.5, 1.0, 2)
    assert group.figures["rounds_skipped"] == Spread(1, 0, 3, 3)
    assert group.figures["mean_weight_malicious"] is None
    assert (group.seeds, group.worst_seed, group.errors) == ((0, 1, 2), 1, {3: "no disk\nmore"})


def test_a_group_where_every_cell_failed_has_no_figures():
    (group,) = group_rows(cell_rows([failed(cell) for cell in plan("seeds=0,1")]))
    assert set(group.figures.values()) == {None}
    assert (group.seeds, group.worst_seed) == ((), None)


def test_seeds_share_a_group_and_its_hash():
    outcomes = [done(cell) for cell in plan("defenses=none,step", "seeds=0,1")]
    groups = group_rows(cell_rows(outcomes))
    assert [group.label for group in groups] == ["none", "step"]
    assert [group.seeds for group in groups] == [(0, 1), (0, 1)]
    assert len({row["config_hash"] for row in cell_rows(outcomes)}) == 2


def test_a_spread_ignores_what_is_unknown():
    assert spread([None, 1.0, 2.0]) == Spread(1.5, 1.0, 2.0, 2)
    assert spread([None]) is None


def test_names_in_pictures():
    assert defense_name({"defense": "none", "rule": "fedavg"}) == "none"
    assert defense_name({"defense": "none", "rule": "krum"}) == "krum"
    assert defense_name({"defense": "shadow", "rule": "krum"}) == "shadow:krum"
    assert attack_name({"attack": "alie", "malicious": 3}) == "alie, 3 malicious"


def test_a_heat_map_averages_seeds_and_worlds():
    cells = plan("defenses=none,step", "malicious=0,3", "worlds=0,1")
    scores = [1.0, 1.0, 0.2, 0.4, 0.9, 0.7, None, None]
    outcomes = [failed(cell) if score is None else done(cell, score) for cell, score in zip(cells, scores, strict=True)]
    grid = heat_map(group_rows(cell_rows(outcomes)), "rule_score")
    assert grid == {
        "none": {"no attackers": 1.0, "unaligned, 3 malicious": pytest.approx(0.3)},
        "step": {"no attackers": pytest.approx(0.8), "unaligned, 3 malicious": None},
    }


def answers(**measures: str):
    """What `read_answers` would say: `answers(utility="110 01")` has two families."""
    return {
        name: tuple(np.array([int(digit) for digit in part], dtype=np.uint8) for part in digits.split())
        for name, digits in measures.items()
    }


def test_places_where_no_attacker_takes_part_have_no_attack():
    cells = plan("defenses=oracle,realignment", "malicious=0,3")
    rows = cell_rows([done(cell, attack="unaligned") for cell in cells])
    places = [(row["defense"], row["attack"], row["malicious"]) for row in rows]
    assert places == [("oracle", None, 0), ("oracle", None, 3), ("realignment", None, 0), ("realignment", "unaligned", 3)]
    assert [attack_name(row) for row in rows] == ["no attackers", "any, 3 malicious", "no attackers", "unaligned, 3 malicious"]
    assert len({row["protocol_hash"] for row in rows}) == 1


def test_means_over_prompts_have_an_interval_and_others_none():
    cells = plan("seeds=0,1")
    kept = {cells[0].name: answers(rule_score="1111", utility="10 1"), cells[1].name: answers(rule_score="1101", utility="11 0")}
    (group,) = group_rows(cell_rows([done(cell, 0.9) for cell in cells]), kept)
    assert group.figures["rule_score"].interval == share_interval([np.array([[1, 1, 1, 1], [1, 1, 0, 1]])])
    utility = share_interval([np.array([[1, 0], [1, 1]]), np.array([[1], [0]])])
    assert group.figures["utility"].interval == utility
    assert group.figures["mean_weight_benign"].interval is None
    assert group.figures["compliance"].interval is None  # measured, but its prompts were not kept
    (without,) = group_rows(cell_rows([done(cell, 0.9) for cell in cells]), {cells[0].name: kept[cells[0].name]})
    assert without.figures["rule_score"].interval is None


def test_groups_are_compared_with_the_clean_one_of_their_world_at_the_seeds_that_both_have():
    cells = plan("defenses=none,shadow", "malicious=0,3", "worlds=0,1", "seeds=0,1")
    by_label = {cell.label: cell for cell in cells}
    scores = {"none, 0 malicious, world 0, seed 0": (1.0, 0.9), "none, 0 malicious, world 0, seed 1": (0.8, 0.8)}
    scores |= {"shadow, 3 malicious, world 0, seed 0": (0.9, 0.88), "shadow, 3 malicious, world 0, seed 1": (0.4, 0.85)}
    scores |= {"shadow, 3 malicious, world 1, seed 0": (0.3, 0.3)}
    outcomes = [done(by_label[label], rule, utility=utility) for label, (rule, utility) in scores.items()]
    clean, defended, elsewhere = group_rows(cell_rows(outcomes))
    assert defended.figures["rule_vs_clean"] == Spread(pytest.approx((0.9 + 0.5) / 2), 0.5, 0.9, 2)
    points = defended.figures["utility_vs_clean"]
    assert (points.mean, points.low, points.high) == pytest.approx((1.5, -2.0, 5.0))
    assert clean.figures["rule_vs_clean"].mean == 1.0
    assert (elsewhere.figures["rule_vs_clean"], elsewhere.figures["utility_vs_clean"]) == (None, None)
    (alone,) = group_rows(cell_rows([*outcomes[:1], failed(by_label["none, 0 malicious, world 0, seed 1"])]))
    assert alone.figures["utility_vs_clean"].num_seeds == 1


def test_the_difference_to_the_clean_group_is_paired_by_seed_and_prompt():
    cells = plan("defenses=none", "malicious=0,3", "seeds=0,1")
    digits = ["1110", "1100", "1010", "1100"]
    kept = {cell.name: answers(utility=text) for cell, text in zip(cells, digits, strict=True)}
    outcomes = [done(cell, 1.0, utility=text.count("1") / 4) for cell, text in zip(cells, digits, strict=True)]
    _, attacked = group_rows(cell_rows(outcomes), kept)
    low, high = difference_interval([np.array([[1, 0, 1, 0], [1, 1, 0, 0]])], [np.array([[1, 1, 1, 0], [1, 1, 0, 0]])])
    assert attacked.figures["utility_vs_clean"].mean == pytest.approx(-12.5)
    assert attacked.figures["utility_vs_clean"].interval == pytest.approx((100 * low, 100 * high))


def test_the_worst_attack_of_each_defense_that_met_several():
    cells = plan("defenses=none,step,oracle", "attacks=alie,ipm", "malicious=3", "seeds=0,1")
    scores = {"none": {"alie": (0.9, 0.2), "ipm": (0.6, 0.6)}, "step": {"alie": (0.7, 0.7), "ipm": (0.8, 0.9)}}
    outcomes = []
    for cell in cells:
        level, attack = cell.label.split(", ")[0], cell.config.clients.attack
        score = scores[level][attack][cell.config.seed] if level in scores else 1.0
        outcomes.append(done(cell, score, utility=None if level == "step" else score))
    groups = group_rows(cell_rows(outcomes))
    assert worst_attacks(groups, "rule_score") == {
        "none": ("alie, 3 malicious", pytest.approx(0.55)),
        "step": ("alie, 3 malicious", pytest.approx(0.7)),
    }
    assert set(worst_attacks(groups, "utility")) == {"none"}


def test_answers_are_read_of_cells_that_did_not_fail():
    cells = plan("seeds=0,1")
    assert cell_answers([done(cells[0]), failed(cells[1])]) == {cells[0].name: {}}  # nothing lies there
