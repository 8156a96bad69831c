"""The Python examples of README and docs, run as they stand there: one round by hand, a whole run, and the report of a run."""

import re
import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import MEASURED

ROOT = Path(__file__).parents[2]
IN_DOCS = {
    f"{path.name}-{i}": block
    for path in sorted((ROOT / "docs").rglob("*.md"))
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL))
}


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_readme_has_both_examples():
    first, second = python_blocks()
    assert "ClientActor.remote" in first
    assert "Federation(" in second
    assert len([line for line in first.splitlines() if line.strip()]) <= 26


@pytest.mark.parametrize("index", [0, 1])
def test_readme_example_runs(index, local_ray, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ", ".join(
        f'"{setting}"' for setting in ("rounds=1", "clients.count=4", "clients.malicious=1", "cluster.client_actors=1", *MEASURED)
    )
    code = python_blocks()[index].replace("ray.init()", "").replace('"rounds=10"', few)
    names: dict = {}
    exec(compile(code, f"README example {index}", "exec"), names)
    if index == 0:
        report = names["report"]
        assert report.outcome == "aggregated"
        assert len(report.clients) == 2
        weights = {client.client_id: client.weight for client in report.clients}
        assert sorted(weights.values()) == pytest.approx([0, 1], abs=0.06)
    else:
        assert names["result"].summary["rounds_aggregated"] == 1
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", IN_DOCS)
def test_example_of_docs_runs_where_the_runs_that_it_names_are(name, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in set(re.findall(r"runs/(\w+)", IN_DOCS[name])):
        shutil.copytree(small_run.path, tmp_path / "runs" / run)
    exec(compile(IN_DOCS[name], name, "exec"), {})
