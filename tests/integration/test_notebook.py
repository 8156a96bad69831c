"""docs/notebook.ipynb, run from top to bottom as a person would."""

from collections import defaultdict
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
_CELL_S = 240


@pytest.fixture(scope="module")
def outputs():
    """What each cell of code shows: text by kind, such as `text/html`."""
    nbclient = pytest.importorskip("nbclient", reason="no nbclient here; pip install 'safe-fedllm[dev]'")
    pytest.importorskip("ipykernel", reason="no ipykernel here; pip install 'safe-fedllm[dev]'")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbclient.execute(nbformat.read(NOTEBOOK, as_version=4), cwd=NOTEBOOK.parent, timeout=_CELL_S)
    return [shown(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def shown(items) -> dict[str, str]:
    found = defaultdict(str)
    for item in items:
        for kind, text in item.get("data", {item.get("name"): item.get("text")}).items():
            found[kind] += text
    return found


def test_it_runs_and_shows_verdict_figures_the_excluded_client_and_both_answers(outputs):
    run, names, weights, client, table, score, measures, answers = outputs
    assert "<strong>Safety kept</strong>" in run["text/html"]
    assert "'weights'" in names["text/plain"]
    for figure in (weights, score, measures):
        assert figure["text/html"].startswith("<iframe")
        assert figure["text/plain"].endswith(".")
    assert "It took part in 4 rounds and counted in 0." in client["text/html"]
    assert table["text/html"].count("<tr") == 5
    assert "restricted: " in answers["stdout"]
    assert answers["stdout"].count("Pair(base=") == 2


def test_it_is_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count is not None] == []
