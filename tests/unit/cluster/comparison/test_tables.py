"""The written tables, as text."""

import csv
import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.comparison.groups import Spread, grouped
from cluster.comparison.tables import brief_texts, csv_text, figure_text, markdown, write_tables
from tests.unit.cluster.comparison.builders import done, failed, plan


def outcomes():
    cells = plan("defenses=none,shadow:median", "seeds=0,1", "rounds=2")
    return [done(cells[0], 0.5), done(cells[1], 0.25, wall_s=11.0), done(cells[2], 1.0, tpr=1.0), failed(cells[3])]


def told(outcomes) -> str:
    return markdown(grouped(outcomes), outcomes)


def test_markdown_in_the_layout_of_the_paper():
    text = told(outcomes())
    protocol, *lines = text.splitlines()
    assert re.fullmatch(r"Protocol [0-9a-f]{16}: the hash of all settings but the axes; .*", protocol)
    assert lines == [
        "",
        "| defense | rule | malicious | seeds | rule score | compliance | utility | over-refusal | w benign | w malicious | TPR"
        " | FPR | skipped | server s | seconds | worst seed |",
        "| - | - | - | - | - | - | - | - | - | - | - | - | - | - | - | - |",
        "| none | fedavg | 3 | 2 | 0.375 (0.250-0.500) | 0.125 | 0.750 | - | 1.000 | - | - | 0.000 | 0 | - | 11 (10-11)"
        " | 1: 0.250 |",
        "| shadow | median | 3 | 1 (1 failed) | 1.000 | 0.125 | 0.750 | - | 1.000 | - | 1.000 | 0.000 | 0 | - | 10 | 0: 1.000 |",
        "",
        "Means over the seeds, lowest to highest in parentheses; the worst seed has the lowest rule score.",
        "",
        "Base model: rule score 1.000, compliance 0.000, utility 0.500.",
        "",
        "Failed:",
        "",
        "- shadow:median, seed 1: no disk",
    ]


def test_one_seed_and_the_usual_rule_need_no_column():
    header = told([done(cell, 1.0) for cell in plan("malicious=0,3")]).splitlines()[2]
    assert header.startswith("| defense | malicious | rule score |")
    assert header.endswith("| seconds |")


def test_an_unusual_attack_has_a_column_even_when_it_is_the_only_one():
    assert "| shadow | alie | 3 |" in told([done(cell, 1.0) for cell in plan("attacks=alie")])


def test_what_no_column_shows_is_noted():
    none, live = (done(cell, 1.0) for cell in plan("defenses=none,live"))
    live.summary["probe_refreshes_rejected"] = 2
    note = "\n\nRefreshes of the probe that failed, for the reasons in probe.parquet; an older one judged: live: 2.\n"
    assert note in told([none, live])


def test_each_world_has_its_base_model():
    text = told([done(cell, 1.0) for cell in plan("worlds=0,1")])
    assert "Base model of world 1: rule score 1.000" in text
    assert "| shadow | 3 | 1 |" in text


def test_updates_that_were_not_admitted_are_told():
    cells = plan("defenses=none,step", "seeds=0,1")
    text = told([done(cell, 1.0, updates_refused=count) for cell, count in zip(cells, [0, 0, 2, 3], strict=True)])
    assert text.endswith("Updates that were not admitted, for the reasons in rounds.parquet: step: 5.\n")


def test_figures_as_text():
    assert figure_text("rule_score", Spread(0.5, 0.25, 0.75)) == "0.500 (0.250-0.750)"
    assert figure_text("rule_score", Spread(0.5, 0.25, 0.75), with_ends=False) == "0.500"
    assert figure_text("rule_score", Spread(0.5, 0.49999, 0.50001)) == "0.500"
    assert figure_text("rounds_skipped", Spread(4 / 3, 0, 4)) == "1.3 (0-4)"
    assert figure_text("rounds_skipped", Spread(2, 2, 2)) == "2"
    assert figure_text("wall_s", Spread(34.4, 30.6, 39)) == "34 (31-39)"
    assert figure_text("tpr", None) == "-"


def test_figures_with_an_interval_as_text():
    assert figure_text("rule_score", Spread(0.5, 0.25, 0.75, (0.4, 0.6))) == "0.500 [0.400, 0.600]"
    assert figure_text("rule_score", Spread(0.5, 0.25, 0.75, (0.4, 0.6)), with_ends=False) == "0.500"
    assert figure_text("utility_vs_clean", Spread(-0.4, -1, 1, (-1.25, 0.456))) == "-0.40 [-1.25, +0.46]"
    assert figure_text("server_s", Spread(1.25, 1.0, 1.5)) == "1.2 (1.0-1.5)"


@pytest.fixture
def compared(kept):
    """Outcomes of two defenses against two attacks, beside runs without attackers, of two seeds."""
    cells = plan("defenses=none,oracle", "attacks=unaligned,backdoor", "malicious=0,3", "seeds=0,1")
    rule = {"none, 0": 1.0, "none, attack unaligned": 0.25, "none, attack backdoor": 0.75}
    results = []
    for cell in cells:
        score = next((value for start, value in rule.items() if cell.label.startswith(start)), 1.0)
        hits = round(4 * score)
        kept[cell.name] = {"rule_score": (np.array([1] * hits + [0] * (4 - hits)),), "utility": (np.array([1, 1, 1, 0]),)}
        success = 0.5 if "backdoor" in cell.label else None
        results.append(done(cell, score, attack_success=success, safety_kept=score, over_refusal=0.0, server_s=1.5))
    return results


def test_a_comparison_with_attackers_and_without_tells_what_it_cost(compared):
    text = told(compared)
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert header == (
        "| defense | attack | malicious | seeds | rule score | kept | rule vs clean | compliance | attack success | utility "
        "| utility vs clean | over-refusal | w benign | w malicious | TPR | FPR | skipped | server s | seconds | worst seed |"
    )
    by_place = {tuple(line.split(" | ")[:3]): line for line in lines}
    assert set(by_place) == {
        ("| none", "-", "0"),
        ("| none", "unaligned", "3"),
        ("| none", "backdoor", "3"),
        ("| oracle", "-", "0"),
        ("| oracle", "-", "3"),
    }
    # Two seeds that agree on four prompts: Wilson for 1 of 4, less Student's correction for three degrees of freedom.
    unaligned = by_place["| none", "unaligned", "3"]
    assert re.search(r"\| 0\.250 \[0\.0\d\d, 0\.[78]\d\d\] \| 0\.250 \| 0\.250 \|", unaligned)
    assert "| +0.00 [-79.56, +79.56] |" in unaligned  # a prompt of four, times 3.18
    assert "| 0.500 |" in by_place["| none", "backdoor", "3"]
    assert unaligned.endswith("| 1.5 | 10 | 0: 0.250 |")
    for note in (
        "In brackets: 95 % intervals over seeds and prompts. Means over the seeds",
        "Clean is plain averaging without attackers, of the same world and seeds",
        "Worst attack by mean rule score: none: 0.250 under unaligned, 3 malicious.",
        "Worst attack by mean utility: none: 0.750 under unaligned, 3 malicious.",
        "Server seconds: ",
    ):
        assert note in text


def test_the_worst_attack_of_each_defense_that_met_several():
    cells = plan("defenses=none,step,oracle", "attacks=alie,ipm", "malicious=3", "seeds=0,1")
    scores = {"none": {"alie": (0.9, 0.2), "ipm": (0.6, 0.6)}, "step": {"alie": (0.7, 0.7), "ipm": (0.8, 0.9)}}
    outcomes = []
    for cell in cells:
        level, attack = cell.label.split(", ")[0], cell.config.clients.attack
        score = scores[level][attack][cell.config.seed] if level in scores else 1.0
        outcomes.append(done(cell, score, utility=None if level == "step" else score))
    text = told(outcomes)
    assert "rule score: none: 0.550 under alie, 3 malicious; step: 0.700 under alie, 3 malicious.\n" in text
    assert "Worst attack by mean utility: none: 0.550 under alie, 3 malicious.\n" in text


def test_csv_has_the_ends_of_intervals(compared):
    lines = {(line["defense"], line["attack"]): line for line in csv.DictReader(io.StringIO(csv_text(grouped(compared))))}
    unaligned = lines["none", "unaligned"]
    assert float(unaligned["rule_score_ci_low"]) < float(unaligned["rule_score_min"]) < float(unaligned["rule_score_ci_high"])
    assert float(unaligned["utility_vs_clean_ci_high"]) == pytest.approx(79.56, abs=0.01)
    assert (unaligned["tpr_ci_low"], unaligned["rule_vs_clean"]) == ("", "0.25")


def test_csv_has_full_figures_and_their_ends():
    lines = list(csv.DictReader(io.StringIO(csv_text(grouped(outcomes())))))
    assert [line["defense"] for line in lines] == ["none", "shadow"]
    first = lines[0]
    assert (first["rule_score"], first["rule_score_min"], first["rule_score_max"]) == ("0.375", "0.25", "0.5")
    assert (first["mean_weight_malicious"], first["attack"], first["worst_seed"]) == ("", "unaligned", "1")
    assert (lines[1]["seeds"], lines[1]["failed"]) == ("1", "1")
    assert len(first["config_hash"]) == 16


def test_the_terminal_has_the_label_and_the_spread_of_the_rule_score():
    header, lines = brief_texts(grouped(outcomes()))
    assert header[:4] == ["run", "seeds", "rule score", "compliance"]
    assert lines[0][:4] == ["none", "2", "0.375 (0.250-0.500)", "0.125"]
    assert lines[0][-2:] == ["11", "1: 0.250"]
    assert not {"over-refusal", "TPR", "FPR", "server s"} & set(header)


def test_files_are_written_and_failures_forgotten_once_mended(tmp_path):
    write_tables(tmp_path, outcomes())
    table = pq.read_table(tmp_path / "comparison.parquet")
    assert table["status"].to_pylist() == ["done", "done", "done", "failed"]
    assert table["rule_score"].to_pylist() == [0.5, 0.25, 1.0, None]
    assert table["error"].to_pylist() == [None, None, None, "no disk\nmore"]
    assert str(table.schema.field("mean_weight_malicious").type) == "double"  # though no cell has one
    assert table.schema.metadata[b"schema_version"] == b"1"
    told = json.loads((tmp_path / "failed.json").read_text())
    assert told == {
        "shadow-median_seed-1": {"cell": "shadow:median, seed 1", "error": "no disk\nmore", "traceback": "Traceback ..."}
    }
    write_tables(tmp_path, outcomes()[:3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.csv", "comparison.md", "comparison.parquet"]


def test_a_table_of_failures_only_is_written(tmp_path):
    write_tables(tmp_path, [failed(cell) for cell in plan("seeds=0,1")])
    assert pq.read_table(tmp_path / "comparison.parquet").num_rows == 2
    assert "| 0 (2 failed) |" in (tmp_path / "comparison.md").read_text()
