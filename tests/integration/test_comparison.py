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
from cluster.comparison.axes import plan_cells
from cluster.comparison.matrix import run_comparison
from cluster.config.loading import EMBEDDED, read_mapping, with_overrides
from cluster.reporting.progress import Progress
from tests.integration.conftest import MEASURED, SMALL, forget_round


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


def test_a_cell_that_fails_spoils_no_other_and_is_run_again_by_the_same_command(compare, tmp_path):
    folder, probe = tmp_path / "matrix", tmp_path / "probe"
    arguments = ("defenses=none,shadow", f"probe.path={probe}")
    code, output = compare(*arguments)  # only one of them needs the probe, which is not there
    assert code == 1
    assert "2 cells to run, 2 at once" in output
    assert "[2 of 2] " in output
    rows = rows_of(folder)
    assert rows["none"]["status"] == "done"
    assert rows["none"]["rule_score_low"] <= rows["none"]["rule_score"] <= rows["none"]["rule_score_high"]
    assert rows["shadow"]["status"] == "failed"
    assert f"probe.path={probe}: no probe.json there" in rows["shadow"]["error"]
    assert list(json.loads((folder / "failed.json").read_text())) == ["shadow"]
    assert "- shadow, seed 0: probe.path=" in (folder / "comparison.md").read_text()

    shutil.copytree(probe_folder(world_folder(0)), probe)
    before = (folder / "none" / "summary.json").stat().st_mtime_ns
    code, output = compare(*arguments)
    assert code == 0
    assert "1 of 2 cells are finished already, 0 unfinished" in output
    assert "shadow: " in output
    assert "none: embedded world" not in output
    assert (folder / "none" / "summary.json").stat().st_mtime_ns == before
    assert {row["status"] for row in rows_of(folder).values()} == {"done"}
    assert not (folder / "failed.json").exists()
    for name in ("comparison.csv", "comparison.png", "safety_by_round.png"):
        assert (folder / name).stat().st_size > 0


def test_cells_side_by_side_and_cells_resumed_end_in_the_bits_of_a_single_run(compare, small_run, tmp_path):
    folder = tmp_path / "matrix"
    code, _ = compare("seeds=0,1", "--parallel", "2")
    assert code == 0
    rows = rows_of(folder)
    assert rows["seed-0"]["adapter_sha256"] == small_run.summary["adapter_sha256"] != rows["seed-1"]["adapter_sha256"]
    assert rows["seed-0"]["config_hash"] == rows["seed-1"]["config_hash"]

    (folder / "seed-1" / "summary.json").unlink()  # as if killed in the second round
    forget_round(folder / "seed-1", 2)
    code, output = compare("seeds=0,1", "cluster.client_actors=2")
    assert code == 0
    assert "1 of 2 cells are finished already, 1 unfinished" in output
    assert "seed 1: resumed after 1 rounds" in output
    assert rows_of(folder)["seed-1"]["adapter_sha256"] == rows["seed-1"]["adapter_sha256"]

    code, output = compare("seeds=0,1")
    assert (code, "2 of 2 cells are finished already, 0 unfinished" in output) == (0, True)


def test_a_baseline_beside_clean_runs_leaves_results_only(compare, tmp_path):
    folder = tmp_path / "matrix"
    code, output = compare("defenses=none,oracle", "malicious=0,1", "rounds=1", "--lean")
    assert code == 0, output
    rows = rows_of(folder)
    assert {(row["defense"], row["attack"], row["malicious"]) for row in rows.values()} == {
        ("none", None, 0),
        ("none", "unaligned", 1),
        ("oracle", None, 0),
        ("oracle", None, 1),
    }
    assert rows["oracle_0-malicious"]["adapter_sha256"] == rows["none_0-malicious"]["adapter_sha256"]
    assert all(row["server_s"] > 0 for row in rows.values())
    assert "| utility vs clean |" in (folder / "comparison.md").read_text()
    left = {path.name for cell in folder.iterdir() if cell.is_dir() for path in cell.iterdir()}
    assert left.isdisjoint({"checkpoints", "data", "probes"})
    assert {"adapter", "evaluation.parquet", "rounds.parquet", "summary.json"} <= left


class Stopper(Progress):
    """Gives the order to stop in the first round."""

    def round_started(self, round_index, client_ids):
        Federation.attach().stop()


def test_a_cell_that_somebody_stopped_keeps_what_it_needs_and_is_gone_on_with(small_run, tmp_path):
    cells = plan_cells(with_overrides(read_mapping(EMBEDDED), [*SMALL, *MEASURED]), {"seeds": ["0"]})
    folder, said = tmp_path / "matrix", io.StringIO()

    def run(progress):
        show = lambda console, label: nullcontext(progress)  # noqa: E731
        (outcome,) = run_comparison(cells, folder, Console(file=said, width=200), show, parallel=1, lean=True)
        return outcome.summary

    assert run(Stopper())["rounds_done"] == 1
    assert "1 of 1 cells were stopped; the same command with --output" in said.getvalue()
    assert "Stopped before the last round: seed-0 after 1 of 2 rounds." in (folder / "comparison.md").read_text()
    assert (folder / "seed-0" / "checkpoints").is_dir()

    assert run(Progress())["adapter_sha256"] == small_run.summary["adapter_sha256"]
    assert "0 of 1 cells are finished already, 1 unfinished" in said.getvalue()
    assert not (folder / "seed-0" / "checkpoints").exists()
