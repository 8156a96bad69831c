"""Which files doctor looks for, and what it makes of a node's report: sentences that name package, path and fix. No Ray."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.config import EvaluationConfig, ModelConfig
from cluster.config.loading import load_config
from cluster.data.sources import Sources
from cluster.data.token_files import TokenFiles
from cluster.doctor.node_faults import RequiredFile, node_faults, required_files, summary
from cluster.doctor.node_report import ACTOR_MODULES, OURS, NodeReport, broken_imports, code_hash, free_bytes, versions
from cluster.workers.nodes import Node
from tests.unit.cluster.data.builders import real_config

SERVER = "zone=server"
GIB = 2**30
HERE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.9.0+cpu", "peft": "0.19.1"}
NODE = Node({"CPU": 4.0, "GPU": 1.0, "memory": 8.0 * GIB})
GOOD = NodeReport(versions=HERE, code="abc", broken={}, gpus=1, free_bytes=6 * GIB, missing=())


def faults(*required: RequiredFile, **changes) -> list[str]:
    return list(node_faults(GOOD | changes, NODE, required, HERE, "abc"))


def test_a_node_like_this_machine_has_no_fault():
    assert faults() == []
    assert "4 CPUs, 1 GPUs, 6.0 GiB free" in summary(GOOD, NODE)


def test_packages_that_differ_or_are_missing_are_named_with_both_versions():
    (fault,) = faults(versions={**HERE, "peft": "0.18.0", "ray": None})
    assert "ray missing (here 2.60.0), peft 0.18.0 (here 0.19.1); install the same" in fault
    assert "torch" not in fault


def test_builds_of_a_package_and_patches_of_python_are_the_same_version():
    assert faults(versions={**HERE, "torch": "2.9.0+cu128", "python": "3.11.2"}) == []
    (fault,) = faults(versions={**HERE, "python": "3.12.7"})
    assert "python 3.12.7 (here 3.11.7)" in fault


def test_packages_that_cannot_be_imported_are_named_with_both_fixes():
    why = "ModuleNotFoundError: No module named 'actors'"
    (fault,) = faults(code=None, broken={"actors": why, "probe": "ModuleNotFoundError: ..."})
    assert fault.startswith(f"cannot import actors, probe ({why}); install the package")
    assert "--working-dir ." in fault


def test_another_release_of_our_packages_is_a_fault():
    (fault,) = faults(code="xyz")
    assert "another release (sources xyz, here abc)" in fault


def test_gpus_that_torch_does_not_see_are_a_fault_and_those_that_ray_does_not_count_are_mentioned():
    (fault,) = faults(gpus=0)
    assert "Ray counts 1 GPUs, torch sees 0" in fault
    assert "--num-gpus 0" in fault
    assert faults(gpus=2) == []
    assert "1 GPUs (torch sees 2)" in summary(GOOD | {"gpus": 2}, NODE)


def test_missing_paths_are_named_once_for_each_setting():
    data = [RequiredFile(what="data.path", path=f"/d/{i}.jsonl") for i in range(3)]
    first, second = faults(RequiredFile(what="model.path", path="/m"), *data, missing=["/m", "/d/1.jsonl", "/d/2.jsonl"])
    assert first.startswith("cannot read model.path: /m; copy it to the node")
    assert second.startswith("cannot read data.path: /d/1.jsonl and 1 more;")


def test_this_machine_describes_itself():
    assert versions()["ray"]
    assert versions(["no-such-package"])["no-such-package"] is None
    assert len(code_hash()) == 12
    assert free_bytes() > 0
    assert broken_imports([*OURS, *ACTOR_MODULES, "no_such_package", "no_such_package.part"]) == {
        "no_such_package": "ModuleNotFoundError: No module named 'no_such_package'"
    }


def sources(model: str | None, path: str, **evaluation: str) -> Sources:
    return Sources(
        model=ModelConfig(path=model),
        evaluation=EvaluationConfig(**evaluation),
        probe_path="/p/probe",
        files={"client-000": (path,)},
        tokens=TokenFiles(ModelConfig(path=model), 512, Path("/runs")),
    )


def test_data_is_needed_where_clients_can_be_and_the_probe_where_the_server_is():
    data, probe = RequiredFile(what="data", path="/d", by_server=False), RequiredFile(what="probe", path="/p", by_clients=False)
    server, worker, head = Node({"CPU": 4}, {"zone": "server"}), Node({"CPU": 4}), Node({})
    assert [data.on(node, SERVER) for node in (server, worker, head)] == [False, True, False]
    assert [probe.on(node, SERVER) for node in (server, worker, head)] == [True, False, False]
    assert [data.on(node, None) for node in (server, worker, head)] == [True, True, False]
    assert [probe.on(node, None) for node in (server, worker, head)] == [True, True, True]


def test_generated_data_stands_for_the_run_directory():
    folder = Path("/runs/.doctor-1")
    found = required_files(load_config(None), sources("/w/base", f"{folder}/data/0.parquet"), folder)
    assert [(item.what, item.path) for item in found] == [
        ("the embedded world's base model", "/w/base"),
        ("the probe (probe.path)", "/p/probe"),
        ("the run directory", str(folder)),
    ]
    assert "--output" in found[-1].fix


@pytest.mark.parametrize(("model", "is_looked_for"), [("/models/llama", True), ("./llama", True), ("meta-llama/Llama-3", False)])
def test_a_model_is_looked_for_by_path_but_not_by_its_name_on_a_hub(model, is_looked_for):
    config = real_config("/d/0.jsonl", f"model.path={model}", "clients.count=1")
    found = required_files(config, sources(model, "/d/0.jsonl", restricted_path="/e/r.jsonl"), Path("/runs/x"))
    assert ("model.path" in [item.what for item in found]) == is_looked_for
    assert "evaluation.restricted_path" in {item.what for item in found}


def test_the_canarys_refusals_are_looked_for_where_the_server_may_be():
    read = replace(sources("m", "/d/0.jsonl"), canary_path="/e/refusals.jsonl")
    required = required_files(real_config("/d/0.jsonl", "clients.count=1"), read, Path("/runs/x"))
    (found,) = [item for item in required if item.path == "/e/refusals.jsonl"]
    assert (found.what, found.by_clients, found.by_server) == ("evaluation.canary_path", False, True)
