"""Real commands in directories of their own: our packages come first, and a run that trains nobody says why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.ray_connection.session import ray_session
from tests.integration.conftest import SMALL

ROOT = Path(__file__).parents[2]
TINY = [*SMALL, "rounds=1", "defense.level=none", "clients.count=2", "clients.malicious=0"]


def command(folder: Path, *words: str, before: str = "", path: str = "") -> subprocess.CompletedProcess[str]:
    """A command as an installed script starts it, which does not look in the working directory; Ray is local."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))}
    script = folder / "script" / "safe-fedllm"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"{before}\nfrom cluster.cli import main\nmain()\n")
    return subprocess.run(
        [sys.executable, script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def put_names(folder: Path) -> None:
    """Modules of our packages' names that end the process which imports them."""
    (folder / "actors").mkdir(parents=True)
    for name in ("actors/__init__.py", "probe.py", "cluster.py"):
        (folder / name).write_text("raise SystemExit('a module of the user ran')\n")
    (folder / "defense").mkdir()


def test_modules_of_our_names_in_the_working_directory_are_not_imported_by_workers(tmp_path):
    put_names(tmp_path)
    done = command(tmp_path, "run", *TINY, "--output", "mine")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["rounds_aggregated"] == 1
    assert "of the user" not in done.stdout + done.stderr


def test_modules_of_our_names_in_pythonpath_are_not_imported_once_cluster_is_ours(tmp_path):
    put_names(tmp_path / "user")
    (tmp_path / "user" / "cluster.py").unlink()  # would be the command itself
    done = command(tmp_path, "run", *TINY, "--output", "mine", path=str(tmp_path / "user"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["rounds_aggregated"] == 1


def test_where_the_caller_started_ray_among_such_modules_a_run_ends_before_its_actors_start(tmp_path):
    put_names(tmp_path)
    start = "import ray; ray.init(address='local', include_dashboard=False, log_to_driver=False, logging_level='ERROR')"
    done = command(tmp_path, "run", *TINY, "--output", "mine", before=start)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'actors'} is in the way: the workers of this Ray")
    assert not (tmp_path / "mine").exists()


def test_a_run_in_which_nobody_trains_says_why_and_ends_with_1(tmp_path):
    done = command(tmp_path, "run", *TINY, "clients.timeout_s=0.01", "--output", "mine")
    assert done.returncode == 1, done.stderr
    assert "no round was aggregated, so the adapter is the initial one: rounds 1 x no_quorum; clients 2 x late" in done.stdout


def test_a_connection_that_was_there_is_used_where_ours_come_first(local_ray):
    with ray_session(None):
        pass


def test_an_address_is_named_by_what_gave_it(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    for address, key, named in ((None, "cluster.address", "RAY_ADDRESS=somewhere"), ("here", "--address", "--address=here")):
        with pytest.raises(ClusterError, match=f"{named} should be HOST:PORT or auto"), ray_session(address, key):
            pass
