"""The README's Python examples: one round by hand, and a whole run. They are run as they stand there."""

import re
from pathlib import Path

import pytest

from tests.integration.conftest import MEASURED

README = Path(__file__).parents[2] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


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
