"""The tables that close a run: clients by group, and the outcome, with columns that only some runs have."""

from pathlib import Path

import pytest
from rich.console import Console

from cluster.config.schema import RunConfig
from cluster.report.closing_table import group_table, none_aggregated, outcome_table
from cluster.report.run_result import RunResult
from cluster.state.run_directory import RunDirectory
from tests.unit.cluster.builders import round_report

MEASURES = {"rule_score": 0.9, "compliance": 0.05, "attack_success": None, "utility": 0.8, "benign_loss": 1.0}


def result(**changes) -> RunResult:
    outcome = {"mean_weight_benign": 1.0, "mean_weight_malicious": 0.0, "rounds_skipped": 0, "wall_s": 12.0, "intervals": {}}
    return RunResult(Path("run"), {**MEASURES, "base": {**MEASURES, **changes}, "safety_kept": 0.75, **outcome, **changes})


def lines(table, width: int = 160) -> list[list[str]]:
    """The cells of every row, of which a long label may take several."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines() if line.startswith("│")]


def shown(*results: RunResult) -> list[list[str]]:
    return lines(outcome_table([(f"run {i}", each) for i, each in enumerate(results)]))


def test_a_long_label_is_shown_whole_on_a_narrow_terminal():
    table = outcome_table([("live+canary+spectrum+consensus 0", result())])
    assert "".join(line[0] for line in lines(table, width=80)).replace(" ", "").endswith("live+canary+spectrum+consensus0")


def test_how_much_of_the_base_models_safety_is_kept_stands_beside_the_safety():
    assert [line[:4] for line in shown(result())] == [["base model", "0.900", "", "0.050"], ["run 0", "0.900", "0.750", "0.050"]]


@pytest.mark.parametrize(
    ("changes", "last"),
    [({"attack_success": 0.731}, ["0.731", "0.731", "-"]), ({"rounds_rolled_back": 3}, ["3", "3", "-"])],
)
def test_a_figure_that_only_some_runs_have_is_the_last_column(changes, last):
    assert len(shown(result())[0]) == 9
    assert [line[9] for line in shown(result(**changes), result())] == last


def test_a_rollback_that_never_happened_has_no_column():
    assert len(shown(result(rounds_rolled_back=0))[0]) == 9


def test_clients_are_counted_and_averaged_by_group(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    directory.write_ground_truth(["a", "b", "c"], {"c"})
    directory.write_rounds([round_report(0, {"a": 1.0, "b": 0.5, "c": 0.0}), round_report(1, {"a": 0.75, "b": None, "c": None})])
    assert lines(group_table(RunResult(directory.path, {}))) == [
        ["benign", "2", "3", "1", "25.0 %", "0.750"],  # flagged 0, 1/2 and 1/4 of the samples
        ["malicious", "1", "1", "1", "100.0 %", "0.000"],
    ]
    directory.write_ground_truth(["a", "b", "c"], ())
    assert [line[0] for line in lines(group_table(RunResult(directory.path, {})))] == ["benign"]


def test_a_run_without_an_aggregated_round_says_how_rounds_ended_and_why_clients_did_not_count(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    directory.write_rounds(
        [round_report(0, {"a": None, "b": None, "c": 0.0}), round_report(1, {"a": None, "b": None, "c": None})]
    )
    outcomes = {"rounds_aggregated": 0, "rounds_skipped": 0, "rounds_no_quorum": 2, "rounds_rolled_back": 0}
    (reason,) = {row["reason"] for row in RunResult(directory.path, {}).rounds.to_pylist() if row["reason"]}
    assert none_aggregated(RunResult(directory.path, outcomes)) == f"rounds 2 x no_quorum; clients 5 x {reason}"
