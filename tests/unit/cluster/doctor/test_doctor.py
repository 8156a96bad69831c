"""What doctor makes of reports: sentences that name package, path and fix. No Ray, no cluster."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from actors.config import EvaluationConfig, ModelConfig
from cluster.config.loading import load_config
from cluster.data.sources import Sources
from cluster.doctor import diagnosis
from cluster.doctor.cluster_checks import as_free, room
from cluster.doctor.faults import NodeReport, faults, summary
from cluster.doctor.finding import Finding
from cluster.doctor.needs import Needed, needs
from cluster.doctor.node_report import OURS, broken_imports, code_hash, free_bytes, versions
from cluster.doctor.printing import print_findings
from cluster.errors import ClusterError, DeadlineError
from cluster.state.checkpoints import Checkpoints
from cluster.workers.nodes import Node

GIB = 2**30
HERE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.9.0+cpu", "peft": "0.19.1"}
NODE = Node({"CPU": 4.0, "GPU": 1.0, "memory": 8.0 * GIB})
SERVER = "zone=server"
GOOD = NodeReport(versions=HERE, code="abc", broken={}, gpus=1, free_bytes=6 * GIB, missing=())


def told(report: NodeReport, needed: tuple[Needed, ...] = ()) -> list[str]:
    return faults(report, NODE, needed, HERE, "abc")


def sources(model: str | None, files: dict[str, tuple[str, ...]], **evaluation: str) -> Sources:
    return Sources(
        model=ModelConfig(path=model),
        evaluation=EvaluationConfig(**evaluation),
        probe_path="/p/probe",
        files=files,
        malicious=frozenset(),
    )


def test_a_node_like_this_machine_has_no_fault():
    assert told(GOOD) == []
    assert "4 CPUs, 1 GPUs, 6.0 GiB free" in summary(GOOD, NODE)


def test_packages_that_differ_or_are_missing_are_named_with_both_versions():
    (fault,) = told(replace(GOOD, versions={**HERE, "peft": "0.18.0", "ray": None}))
    assert "ray missing (here 2.60.0), peft 0.18.0 (here 0.19.1); install the same" in fault
    assert "torch" not in fault


def test_builds_of_a_package_and_patches_of_python_are_the_same_version():
    assert told(replace(GOOD, versions={**HERE, "torch": "2.9.0+cu128", "python": "3.11.2"})) == []
    (fault,) = told(replace(GOOD, versions={**HERE, "python": "3.12.7"}))
    assert "python 3.12.7 (here 3.11.7)" in fault


def test_packages_that_cannot_be_imported_are_told_with_both_fixes():
    why = "ModuleNotFoundError: No module named 'actors'"
    (fault,) = told(replace(GOOD, code=None, broken={"actors": why, "probe": "ModuleNotFoundError: ..."}))
    assert fault.startswith(f"cannot import actors, probe ({why}); install the package")
    assert "--working-dir ." in fault


def test_another_release_of_our_packages_is_told():
    (fault,) = told(replace(GOOD, code="xyz"))
    assert "another release (sources xyz, here abc)" in fault


def test_gpus_that_torch_does_not_see_are_a_fault_and_those_that_ray_does_not_count_are_mentioned():
    (fault,) = told(replace(GOOD, gpus=0))
    assert "Ray counts 1 GPUs, torch sees 0" in fault
    assert "--num-gpus 0" in fault
    more = replace(GOOD, gpus=2)
    assert told(more) == []
    assert "1 GPUs (torch sees 2)" in summary(more, NODE)


def test_paths_that_are_missing_are_told_once_for_each_key():
    data = tuple(Needed(what="data.path", path=f"/d/{i}.jsonl") for i in range(3))
    report = replace(GOOD, missing=["/m", "/d/1.jsonl", "/d/2.jsonl"])
    first, second = told(report, (Needed(what="model.path", path="/m"), *data))
    assert first.startswith("cannot read model.path: /m; copy it to the node")
    assert second.startswith("cannot read data.path: /d/1.jsonl and 1 more;")


def test_data_is_needed_where_clients_can_be_and_the_probe_where_the_server_is():
    data, probe = Needed(what="data", path="/d", by_server=False), Needed(what="probe", path="/p", by_clients=False)
    server, worker, head = Node({"CPU": 4}, {"zone": "server"}), Node({"CPU": 4}), Node({})
    assert [data.on(node, SERVER) for node in (server, worker, head)] == [False, True, False]
    assert [probe.on(node, SERVER) for node in (server, worker, head)] == [True, False, False]
    assert [data.on(node, None) for node in (server, worker, head)] == [True, True, False]
    assert [probe.on(node, None) for node in (server, worker, head)] == [True, True, True]


def test_generated_data_stands_for_the_run_directory():
    folder = Path("/runs/.doctor-1")
    found = needs(load_config(None), sources("/w/base", {"client-000": (f"{folder}/data/0.parquet",)}), folder)
    assert [(item.what, item.path) for item in found] == [
        ("the embedded world's base model", "/w/base"),
        ("the probe (probe.path)", "/p/probe"),
        ("the run directory", str(folder)),
    ]
    assert "--output" in found[-1].fix


@pytest.mark.parametrize(("model", "is_looked_for"), [("/models/llama", True), ("./llama", True), ("meta-llama/Llama-3", False)])
def test_a_model_is_looked_for_by_path_but_not_by_its_name_on_a_hub(model, is_looked_for):
    config = load_config(None, [f"model.path={model}", "data.path=/d/0.jsonl", "clients.count=1", "clients.malicious=0"])
    found = needs(config, sources(model, {"client-000": ("/d/0.jsonl",)}, restricted_path="/e/r.jsonl"), Path("/runs/x"))
    assert ("model.path" in [item.what for item in found]) == is_looked_for
    assert {"data.path", "evaluation.restricted_path"} <= {item.what for item in found}


def test_the_canarys_refusals_are_looked_for_where_the_server_may_be():
    config = load_config(None, ["model.path=m", "data.path=/d/0.jsonl", "clients.count=1", "clients.malicious=0"])
    read = replace(sources("m", {"client-000": ("/d/0.jsonl",)}), canary_path="/e/refusals.jsonl")
    (found,) = [item for item in needs(config, read, Path("/runs/x")) if item.path == "/e/refusals.jsonl"]
    assert (found.what, found.by_clients, found.by_server) == ("evaluation.canary_path", False, True)


def test_memory_is_what_is_free_where_that_is_less_than_ray_counts():
    assert as_free(NODE, GOOD).resources["memory"] == 6 * GIB
    assert as_free(NODE, replace(GOOD, free_bytes=20 * GIB)).resources["memory"] == 8 * GIB
    assert as_free(NODE, "no answer") == NODE


def test_room_says_what_would_start_and_what_is_missing():
    config, model = load_config(None, ["cluster.client_actors=2"]), ModelConfig()
    assert "a run would start 2 client actors" in room(config, model, [Node({"CPU": 2, "memory": 8 * GIB})])
    with pytest.raises(ClusterError, match=r"need about .* GiB"):
        room(config, model, [Node({"CPU": 2, "memory": GIB / 4})])


def test_this_machine_describes_itself():
    assert versions()["ray"]
    assert len(code_hash()) == 12
    assert free_bytes() > 0
    assert broken_imports([*OURS, "no_such_package", "no_such_package.part"]) == {
        "no_such_package": "ModuleNotFoundError: No module named 'no_such_package'"
    }


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have left this process connected
    (tmp_path / "file").write_text("")
    config = load_config(None, [f"checkpoint.path={tmp_path}/file/x", "cluster.address=127.0.0.1:9"])
    found = {finding.check: finding for finding in diagnosis.diagnose(config, tmp_path / "runs", timeout_s=1)}
    assert found["run directory"].ok
    assert f"cannot write to {tmp_path}/file/x" in found["checkpoint.path"].detail
    assert "no Ray head answers" in found["connection"].detail
    assert not (tmp_path / "runs").exists()


def test_a_store_that_never_answers_does_not_hold_up_the_rest(monkeypatch, tmp_path):
    import threading

    monkeypatch.setattr(Checkpoints, "check_writable", lambda self: threading.Event().wait(60))
    monkeypatch.setattr(diagnosis, "_WRITE_TIMEOUT_S", 0.1)
    with pytest.raises(DeadlineError, match=f"writing to {tmp_path} took longer than 0.1 s"):
        diagnosis.check_writable(str(tmp_path))


def test_findings_are_lines_for_people_and_json_for_machines(capsys):
    findings = [Finding("a", True, "has [1, 2]"), Finding("b", False, "fix it")]
    assert not print_findings(findings, Console(width=100))
    assert capsys.readouterr().out == "ok    a: has [1, 2]\nwrong b: fix it\n"
    assert print_findings(findings[:1], None)
    assert json.loads(capsys.readouterr().out) == [{"check": "a", "ok": True, "detail": "has [1, 2]"}]
