"""The documents as a site: it builds without a warning and without a network, and its pages load nothing from one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("material", reason="no MkDocs Material here; pip install 'safe-fedllm[dev]'")
pytest.importorskip("mkdocstrings", reason="no mkdocstrings here; pip install 'safe-fedllm[dev]'")
pytest.importorskip("mkdocs_jupyter", reason="no mkdocs-jupyter here; pip install 'safe-fedllm[dev]'")

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r'<(?:script|img|iframe)\b[^>]*\bsrc="?([^">\s]+)|<link\b[^>]*\brel="?stylesheet[^>]*\bhref="?([^">\s]+)')
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **NO_NETWORK}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_of_the_plan_is_there(site):
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    planned = re.findall(r"[\w/-]+\.(?:md|ipynb)", str(nav))
    assert len(planned) == len(set(planned)) > 20
    assert [name for name in planned if not (site / name).with_suffix(".html").is_file()] == []


def test_no_page_loads_anything_from_a_network(site):
    found = [
        (page.name, target)
        for page in site.rglob("*.html")
        for match in LOADED.finditer(page.read_text())
        if (target := match[1] or match[2]).startswith(("http", "//"))
    ]
    assert found == []


def test_the_reference_has_the_docstrings(site):
    page = (site / "reference" / "run.html").read_text()
    assert "Train all rounds that are left" in page
    assert 'id="cluster.report.run_result.RunResult.figures"' in page
    keys = (site / "reference" / "configuration.html").read_text()
    assert "Share of honest client-rounds that the bounds" in keys
