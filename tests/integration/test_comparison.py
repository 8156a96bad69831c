"""Comparisons on a real local Ray: cells side by side, cells that fail, and what a repeated command runs."""

import io
import json
import shutil
from contextlib import nullcontext

import pyarrow.parquet as pq
from pytest import fixture
from rich.console import Console
from typer.testing import CliRunner

from actors.world.store import probe_folder, world_folder
from cluster import Federation
from cluster.cli import app
from cluster.comparison.cells import plan_cells
from cluster.comparison.compare import run_comparison
from cluster.config.loading import EMBEDDED, read_mapping, with_overrides
from cluster.reporting.callback import RunCallback
from tests.integration.conftest import MEASURED, SMALL


@fixture
def compare(local_ray, tmp_path):
    """Run the command with small cells in `tmp_path/matrix`: `compare("seeds=0,1")` gives exit code and output."""

    def run(*arguments: str):
        done = CliRunner().invoke(app, ["compare", *SMALL, *MEASURED, *arguments, "--output", str(tmp_path / "matrix")])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return run


def rows_of(folder) -> dict[str, dict]:
    return {row["cell"]: row for row in pq.read_table(folder / "comparison.parquet").to_pylist()}


class Stopper(RunCallback):
    """Gives the order to stop in the first round."""

    def round_started(self, round_index, client_ids):
        Federation.attach().stop()


def test_a_cell_that_fails_or_is_stopped_spoils_no_other_and_is_gone_on_with(compare, finished_run, small_run, tmp_path):
    folder, probe, said = tmp_path / "matrix", tmp_path / "probe", io.StringIO()
    settings = [*SMALL, *MEASURED, f"probe.path={probe}"]
    cells = plan_cells(with_overrides(read_mapping(EMBEDDED), settings), {"defenses": ["none", "shadow"]})
    show = lambda console, label: nullcontext(Stopper())  # noqa: E731
    outcomes = run_comparison(cells, folder, Console(file=said, width=200), show, parallel=1, lean=True)
    assert outcomes[0].summary["rounds_done"] == 1
    assert "[2 of 2] " in said.getvalue()
    assert "1 of 2 cells were stopped; the same command with --output" in said.getvalue()
    rows, report = rows_of(folder), (folder / "comparison.md").read_text()
    assert rows["none"]["rule_score_low"] <= rows["none"]["rule_score"] <= rows["none"]["rule_score_high"]
    assert "Stopped before the last round: none after 1 of 2 rounds." in report
    assert (folder / "none" / "checkpoints").is_dir()
    assert rows["shadow"]["status"] == "failed"  # it needs the probe, which is not there
    assert f"probe.path={probe}: no probe.json there" in rows["shadow"]["error"]
    assert list(json.loads((folder / "failed.json").read_text())) == ["shadow"]
    assert "- shadow, seed 0: probe.path=" in report

    shutil.copytree(probe_folder(world_folder(0)), probe)
    arguments = ("defenses=none,shadow", f"probe.path={probe}")
    code, output = compare(*arguments, "--parallel", "2", "cluster.client_actors=2", "--lean")
    assert code == 0, output
    assert "0 of 2 cells are finished already, 1 unfinished" in output
    assert "2 cells to run, 2 at once" in output
    assert '"event": "resumed"' in (folder / "none" / "events.jsonl").read_text()
    rows = rows_of(folder)
    assert rows["none"]["adapter_sha256"] == finished_run("defense.level=none", *MEASURED).summary["adapter_sha256"]
    assert rows["shadow"]["adapter_sha256"] == small_run.summary["adapter_sha256"]
    assert {row["status"] for row in rows.values()} == {"done"}
    assert not (folder / "failed.json").exists()
    assert not (folder / "none" / "checkpoints").exists()
    for name in ("comparison.csv", "report.html"):
        assert (folder / name).stat().st_size > 0

    before = (folder / "none" / "summary.json").stat().st_mtime_ns
    code, output = compare(*arguments)
    assert (code, "2 of 2 cells are finished already, 0 unfinished" in output) == (0, True)
    assert (folder / "none" / "summary.json").stat().st_mtime_ns == before


def test_a_lean_comparison_with_clean_runs_leaves_results_only(compare, tmp_path):
    folder = tmp_path / "matrix"
    code, output = compare("malicious=0,1", "defense.level=none", "rounds=1", "--lean")
    assert code == 0, output
    rows = rows_of(folder).values()
    assert {(row["attack"], row["malicious"]) for row in rows} == {(None, 0), ("unaligned", 1)}
    assert all(row["server_s"] > 0 for row in rows)
    assert "| utility vs clean |" in (folder / "comparison.md").read_text()
    left = {path.name for cell in folder.iterdir() if cell.is_dir() for path in cell.iterdir()}
    assert left.isdisjoint({"checkpoints", "data", "probes"})
    assert {"adapter", "evaluation.parquet", "rounds.parquet", "summary.json"} <= left
