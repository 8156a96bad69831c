"""Rows of cells and their groups, with numbers that can be checked by hand."""

import pytest

from cluster.comparison.figures import Spread, attack_name, cell_rows, defense_name, group_rows, heat_map, spread
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
