"""Cells that run side by side, as their directories tell."""

import io

import pytest
from rich.console import Console

from cluster.comparison.display import RunningCells
from cluster.config.loading import dump_config
from cluster.reporting.event_log import EventLog
from tests.unit.cluster.builders import evaluation_report
from tests.unit.cluster.comparison.builders import plan


@pytest.fixture
def cells(tmp_path):
    """Two cells, of which one has begun."""
    found = plan("defenses=none,shadow", "seeds=1")
    path = tmp_path / found[0].name
    path.mkdir()
    (path / "config.yaml").write_text(dump_config(found[0].config))
    log = EventLog(path / "events.jsonl", "mine")
    log.members_changed(["a", "b"])
    log.evaluated(evaluation_report(0, 0.75))
    log.round_started(0, ["a", "b"])
    log.client_done("a")
    return found


def test_a_terminal_has_a_table_of_the_cells_that_run(cells, tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with RunningCells(console, tmp_path) as display:
        display.look(cells, 3)
    text = console.file.getvalue()
    assert all(part in text for part in ("2 cells run, 3 wait", cells[0].label, cells[1].label, "1 of 2 clients", "safety 0.750"))


def test_a_log_has_a_line_a_cell_each_minute(cells, tmp_path):
    console, moments = Console(file=io.StringIO(), width=140), iter([0.0, 30.0, 60.0, 60.0])
    with RunningCells(console, tmp_path, lambda: next(moments)) as display:
        display.look(cells, 0)
        assert console.file.getvalue() == ""
        display.look(cells, 0)
    first, second = console.file.getvalue().splitlines()
    rounds = cells[0].config.rounds
    assert first.startswith(
        f"{cells[0].label}: round 1 of {rounds}; delivered 1 of 2 clients; measured after 0 rounds: safety 0.750"
    )
    assert second == f"{cells[1].label}: starting"
