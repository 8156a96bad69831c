"""Modules of our packages' names that are not ours: found before they are imported, and never imported where we come first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.ray_connection.own_packages import ROOT, first_folders, folders_of, holds_a_copy, in_the_way
from cluster.ray_connection.submission import check_working_dir


@pytest.fixture
def project(tmp_path):
    """A person's directory with modules of our names."""
    (tmp_path / "defense").mkdir()
    (tmp_path / "probe.py").write_text("raise SystemExit('the wrong probe')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("made", "found"),
    [("probe.py", "probe.py"), ("cluster.py", "cluster.py"), ("actors/__init__.py", "actors"), ("defense/data.txt", "defense")],
)
def test_a_module_of_our_name_is_in_the_way(tmp_path, made, found):
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).touch()
    assert in_the_way([str(tmp_path)]) == tmp_path / found
    assert in_the_way([str(ROOT), str(tmp_path)]) is None  # ours come first
    with pytest.raises(ConfigError, match=rf"--working-dir .*{found} is in the way, .* rename it"):
        check_working_dir(tmp_path)


def test_ours_and_other_modules_are_not_in_the_way(tmp_path):
    (tmp_path / "probes").mkdir()
    (tmp_path / "my_cluster.py").touch()
    for folder in (tmp_path, ROOT, tmp_path / "nowhere"):
        assert in_the_way([str(folder)]) is None
        check_working_dir(folder)


def test_a_copy_of_the_repository_is_all_that_a_job_needs(tmp_path):
    for name in ("actors", "cluster", "defense", "probe"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert not holds_a_copy(tmp_path)
    (tmp_path / "cluster" / "cli.py").touch()
    check_working_dir(tmp_path)


def test_workers_look_first_where_ray_tells_them(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", f"/a{os.pathsep}/b")
    assert first_folders()[0] == os.curdir
    assert in_the_way(first_folders()) in (project / "probe.py", project / "defense")
    assert folders_of(["/script", "/here"])[:4] == ["/here", "/script", "/a", "/b"]


def python(code: str, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_once_cluster_is_imported_the_others_are_ours(project):
    (project / "only_cluster").mkdir()
    (project / "only_cluster" / "cluster").symlink_to(ROOT / "cluster")
    paths = os.pathsep.join([str(project / "only_cluster"), str(project), str(ROOT)])
    done = python("from cluster.config.schema import RunConfig; import probe; print(probe.__file__)", project, paths)
    assert done.stdout.strip() == str(ROOT / "probe" / "__init__.py"), done.stderr


def test_a_module_that_was_imported_before_is_named(tmp_path):
    (tmp_path / "probe.py").touch()
    done = python("import probe, cluster", tmp_path, os.pathsep.join(["", str(tmp_path), str(ROOT)]))
    assert f"{tmp_path / 'probe.py'} was imported as `probe`, which is a package of Safe-FedLLM; rename it" in done.stderr
