"""A cell's row in the tables: status, place and plain figures; and the answers that its run kept."""

import pyarrow.parquet as pq
import pytest

from actors.evaluation import proportion
from actors.messages import EvaluationReport
from cluster.comparison.outcome import Place, read_answers
from cluster.state.tables import evaluation_table
from tests.unit.cluster.comparison.builders import done, failed, plan


def test_a_row_has_the_place_the_figures_and_the_interval():
    (cell,) = plan("defenses=shadow:median", "seeds=4", "rounds=2")
    row = done(cell, 0.9).columns()
    about = {"cell": "shadow-median_seed-4", "status": "done", "error": None, "seed": 4}
    place = Place(defense="shadow", rule="median", attack="unaligned", malicious=3, world=0)
    figures = {"rule_score": 0.9, "rule_score_low": 0.8, "rule_score_high": 0.95, "base_utility": 0.5}
    assert row.items() >= (about | place._asdict() | figures).items()
    assert not {"verdicts_by_round", "intervals", "base", "defense_level"} & set(row)


def test_figures_are_those_of_the_run_or_of_its_base_model_or_unknown():
    (cell,) = plan("seeds=0")
    names = ("utility", "base_utility", "tpr", "base_tpr", "nothing")
    assert [done(cell).figures.get(name) for name in names] == [0.75, 0.5, None, None, None]
    assert failed(cell).figures == {}


def test_a_run_that_was_stopped_says_so():
    (cell,) = plan("seeds=0")
    assert [outcome.status for outcome in (done(cell), done(cell, rounds_done=1), failed(cell))] == ["done", "stopped", "failed"]


@pytest.mark.parametrize(
    ("defense", "rule", "name"),
    [("none", "fedavg", "none"), ("none", "krum", "krum"), ("shadow", "fedavg", "shadow"), ("shadow", "krum", "shadow:krum")],
)
def test_a_defense_is_named_as_on_its_axis(defense, rule, name):
    assert Place(defense=defense, rule=rule, attack=None, malicious=0, world=0).full_defense == name


def test_places_where_no_attacker_takes_part_have_no_attack():
    cells = plan("defenses=oracle,realignment", "malicious=0,3")
    places = [done(cell).place for cell in cells]
    assert [(place.defense, place.attack, place.malicious) for place in places] == [
        ("oracle", None, 0),
        ("oracle", None, 3),
        ("realignment", None, 0),
        ("realignment", "unaligned", 3),
    ]
    opponents = ["no attackers", "any, 3 malicious", "no attackers", "unaligned, 3 malicious"]
    assert [place.opponent for place in places] == opponents
    assert len({cell.protocol for cell in cells}) == 1


def test_ones_own_model_has_no_world():
    (cell,) = plan("seeds=0", "model.path=m", "data.path=d", "clients.malicious=0")
    assert done(cell).place.world is None


def report(rounds_done: int, refused: str, **families: str) -> EvaluationReport:
    """`report(2, "10", rhymes="110")`: one of two restricted prompts refused after two rounds."""
    shares = {name: proportion([digit == "1" for digit in digits]) for name, digits in families.items()}
    return EvaluationReport(
        rounds_done=rounds_done,
        adapter_version=rounds_done,
        rule_score=proportion([digit == "1" for digit in refused]),
        compliance=None,
        over_refusal=None,
        utility=0.5,
        utility_by_family=shares,
        benign_loss=1.0,
        seconds=0.1,
    )


def plain(folder):
    return {measure: [part.tolist() for part in strata] for measure, strata in read_answers(folder).items()}


def test_answers_of_the_last_evaluation_are_read_by_measure_and_family(tmp_path):
    reports = [report(0, "111", a="00"), report(2, "101", a="01", b="110")]
    pq.write_table(evaluation_table(reports), tmp_path / "evaluation.parquet")
    assert plain(tmp_path) == {"rule_score": [[1, 0, 1]], "utility": [[0, 1], [1, 1, 0]]}


def test_runs_that_kept_no_answers_have_none(tmp_path):
    assert plain(tmp_path) == {}
    (tmp_path / "old").mkdir()
    pq.write_table(evaluation_table([report(1, "101")]).drop_columns(["outcomes"]), tmp_path / "old" / "evaluation.parquet")
    assert plain(tmp_path / "old") == {}
