"""The outcome table: columns for a backdoor's success and for rollbacks only where a run has them."""

from pathlib import Path

from rich.console import Console

from cluster.federation import RunResult
from cluster.reporting.closing_table import outcome_table

MEASURES = {"rule_score": 0.9, "compliance": 0.05, "attack_success": None, "utility": 0.8, "benign_loss": 1.0}


def result(**changes) -> RunResult:
    outcome = {"mean_weight_benign": 1.0, "mean_weight_malicious": 0.0, "rounds_skipped": 0, "wall_s": 12.0, "intervals": {}}
    return RunResult(Path("run"), {**MEASURES, "base": {**MEASURES, **changes}, **outcome, **changes})


def shown(*results: RunResult, label: str = "run", width: int = 160) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(outcome_table([(f"{label} {i}", item) for i, item in enumerate(results)]))
    return capture.get()


def test_a_long_label_is_shown_whole_on_a_narrow_terminal():
    text = shown(result(), label="live+canary+spectrum+consensus", width=80)
    assert "".join(line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")).endswith("consensus 0")


def test_without_a_backdoor_there_is_no_such_column():
    assert "attack success" not in shown(result())


def test_a_backdoors_success_is_the_last_column():
    text = shown(result(attack_success=0.731), result())
    assert "attack success" in text
    lines = [line for line in text.splitlines() if "run" in line or "base" in line][-3:]
    assert [line.strip(" │┃").split("│")[-1].strip() for line in lines] == ["0.731", "0.731", "-"]


def test_rounds_that_were_rolled_back_have_a_column_where_there_are_any():
    assert "rolled back" not in shown(result(rounds_rolled_back=0))
    text = shown(result(), result(rounds_rolled_back=3))
    assert "rolled back" in text
    lines = [line for line in text.splitlines() if "run" in line or "base" in line][-3:]
    assert [line.strip(" │┃").split("│")[-1].strip() for line in lines[-1:]] == ["3"]
