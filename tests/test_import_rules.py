"""The dependency direction: cluster -> actors -> {probe, defense}, never back, and the pure packages know no Ray."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "probe": {"ray", "defense", "actors", "cluster"},
    "defense": {"ray", "probe", "actors", "cluster"},
    "actors": {"cluster"},
    "cluster": {"tests"},
}
TOP = {"federation", "loop", "exits"}
"""Modules beside the rooms that lie above most of them."""
ROOMS = {
    "config": set(),
    "ray_connection": {"config"},
    "starting": {"config"},
    "state": {"config"},
    "data": {"config", "state"},
    "reporting": {"config", "state"},
    "adapter": {"config", "data"},
    "tracking": {"config", "state", "reporting"},
    "report": {"config", "state", "data", "reporting", "adapter"},
    "watching": {"report", "reporting"},
    "workers": {"config", "state", "data"},
    "round": {"config", "state", "data", "reporting", "workers"},
    "probes": {"config", "ray_connection", "data", "workers", "round"},
    "simulation": {"config", "ray_connection", "state", "data", "reporting", "workers", "round", "probes"},
    "live": {"config", "ray_connection", "state", "data", "reporting", "workers", "simulation"},
    "doctor": {"config", "ray_connection", "state", "data", "reporting", "tracking", "workers", "probes", "simulation"},
    "comparison": {
        "config",
        "ray_connection",
        "state",
        "data",
        "reporting",
        "tracking",
        "report",
        "workers",
        "simulation",
        "federation",
    },
}
"""Room of cluster/ -> what it may import of cluster/ beside itself and errors; cli, federation and loop may import all."""
ROOMS["commands"] = {*ROOMS, *TOP}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_upward_import(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported_packages(path) & FORBIDDEN[package], path


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_cluster_import_no_room_that_lies_above_them(room):
    files = sorted((ROOT / "cluster" / room).rglob("*.py"))
    assert files
    for path in files:
        names = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        found = {name.split(".")[1] for name in names if name and name.startswith("cluster.")}
        assert found <= ROOMS[room] | {room, "errors"}, path


def test_every_room_of_cluster_has_its_rule_and_no_rules_form_a_circle():
    rooms = {path.parent.name for path in (ROOT / "cluster").glob("*/__init__.py")}
    assert rooms == set(ROOMS)
    TopologicalSorter({room: above - TOP for room, above in ROOMS.items()}).prepare()  # raises CycleError


@pytest.mark.parametrize(
    "module", ["cluster.cli", "cluster.config.loading", "cluster.config.schema", "actors.config", "probe.meta", "defense.config"]
)
def test_configuration_and_command_line_load_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_participant_outside_the_cluster_imports_no_ray():
    code = "import sys; sys.modules['ray'] = None; import cluster.cli, actors.remote.participant, actors.remote.connection"
    subprocess.run([sys.executable, "-c", code], timeout=120, cwd=ROOT, check=True)


@pytest.mark.parametrize("call", ["pickle", r"(?<!safetensors\.)torch\.load\(", "joblib", "trust_remote_code=True"])
def test_nothing_unpickles(call):
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            code = ast.unparse(without_docstrings(ast.parse(path.read_text())))
            assert not re.search(call, code), f"{path} uses {call}"


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return tree
