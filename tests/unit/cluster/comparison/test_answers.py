"""What a finished run keeps of every prompt."""

from dataclasses import replace

import pyarrow.parquet as pq

from actors.evaluation import proportion
from actors.messages import EvaluationReport
from cluster.comparison.answers import read_answers
from cluster.state.tables import evaluation_table


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


def test_runs_that_kept_none_have_none(tmp_path):
    assert plain(tmp_path / "nothing") == {}
    kept = report(1, "101")
    old = evaluation_table([replace(kept, rule_score=replace(kept.rule_score, outcomes=""))])
    (tmp_path / "old").mkdir()
    pq.write_table(old.drop_columns(["outcomes"]), tmp_path / "old" / "evaluation.parquet")
    assert plain(tmp_path / "old") == {}
    (tmp_path / "empty").mkdir()
    pq.write_table(old, tmp_path / "empty" / "evaluation.parquet")
    assert plain(tmp_path / "empty") == {}
