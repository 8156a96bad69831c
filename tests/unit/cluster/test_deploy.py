"""The examples in cluster/deploy: valid for Ray and KubeRay, and in agreement with our commands, keys and placement."""

import copy
import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config  # what `ray up` itself calls

import cluster
from cluster.config.loading import known_keys, load_config, split_arguments
from cluster.config.schema import RunConfig
from cluster.workers.nodes import Node
from cluster.workers.placement import Placement, plan_placement
from tests.commands import parse

ROOT = Path(__file__).parents[3]
DEPLOY = Path(cluster.__file__).parent / "deploy"
RAY_UP, RAYJOB = DEPLOY / "ray-up.yaml", DEPLOY / "kuberay-rayjob.yaml"
RAY_SCHEMA = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
CRD_SCHEMA = ROOT / "tests" / "data" / "kuberay" / "rayjob-v1.schema.json.gz"
ROLE = "safe-fedllm/role"
HEAD, WORKER = "rayClusterSpec.headGroupSpec", "rayClusterSpec.workerGroupSpecs.0"
SHARED = "/shared"


def close(schema: Any) -> Any:
    """A copy in which a field that the API server would drop as unknown is an error."""
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        closed["properties"] = {name: close(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


def at(document: Any, path: str) -> Any:
    """What lies at a dotted path; numbers are places in lists."""
    for step in path.split("."):
        document = document[int(step) if isinstance(document, list) else step]
    return document


def changed(document: Any, path: str, value: Any) -> Any:
    """A copy with `value` at a dotted path whose last step is a name."""
    document = copy.deepcopy(document)
    *parents, last = path.split(".")
    (at(document, ".".join(parents)) if parents else document)[last] = value
    return document


def commands_in_comments(path: Path, tool: str) -> list[str]:
    """The commands that the comments tell the reader to type, those inside `ray exec` and `kubectl exec` too."""
    comments = re.sub(r"\\\n# +", "", path.read_text())
    lines = re.findall(r"^#   (\w.*)$", comments, flags=re.MULTILINE)
    inner = [text for line in lines for text in re.findall(r" -- (.+)$| '(.+)'$", line)]
    return [text for text in (*lines, *(a or b for a, b in inner)) if text.startswith(f"{tool} ")]


def node(resources: dict[str, Any], labels: dict[str, str]) -> Node:
    """A node of Ray as a pod or a machine of these resources becomes one."""
    names = {"cpu": "CPU", "nvidia.com/gpu": "GPU"}
    counts = {names.get(name, name): float(value) for name, value in resources.items() if name != "memory"}
    return Node(counts, labels)


def plan(config: RunConfig, server: Node, client: Node, num_clients: int) -> Placement:
    return plan_placement(config, [server] + [client] * num_clients, config.model)


@pytest.fixture(scope="module")
def ray_schema():
    return jsonschema.Draft7Validator(json.loads(RAY_SCHEMA.read_text()))


@pytest.fixture(scope="module")
def crd_schema():
    schema = json.loads(gzip.decompress(CRD_SCHEMA.read_bytes()))
    pod = at(schema, "properties.spec.properties.rayClusterSpec.properties.headGroupSpec.properties.template")
    schema["properties"]["metadata"] = at(pod, "properties.metadata")  # a CRD leaves it open, the API server does not
    return jsonschema.Draft7Validator(close(schema))


@pytest.fixture(scope="module")
def ray_up():
    return yaml.safe_load(RAY_UP.read_text())


@pytest.fixture(scope="module")
def config_map():
    return next(yaml.safe_load_all(RAYJOB.read_text()))


@pytest.fixture(scope="module")
def rayjob():
    return list(yaml.safe_load_all(RAYJOB.read_text()))[1]


@pytest.fixture
def job_config(config_map, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(config_map["data"]["my.yaml"])
    return load_config(path)


@pytest.fixture
def submitted(ray_up):
    """The parameters of the `safe-fedllm submit` that ray-up.yaml shows."""
    (command,) = [text for text in commands_in_comments(RAY_UP, "safe-fedllm") if " submit " in text]
    return parse(command)


def test_ray_up_is_valid_by_the_schema_and_the_checks_of_ray(ray_up, ray_schema):
    ray_schema.validate(ray_up)
    validate_config(prepare_config(copy.deepcopy(ray_up)))


def test_the_rayjob_is_valid_by_kuberays_schema_and_has_no_field_that_would_be_dropped(rayjob, crd_schema):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    crd_schema.validate(rayjob)


@pytest.mark.parametrize(
    ("path", "name"), [("metadata", "lables"), (f"spec.{HEAD}", "label"), (f"spec.{WORKER}.template.spec", "volume")]
)
def test_a_field_that_would_be_dropped_is_found(rayjob, crd_schema, path, name):
    with pytest.raises(jsonschema.ValidationError, match=f"'{name}' was unexpected"):
        crd_schema.validate(changed(rayjob, f"{path}.{name}", {}))


def test_the_job_begins_or_resumes_a_run_on_the_shared_volume_with_the_mounted_configuration(rayjob, config_map):
    spec, params = rayjob["spec"], parse(rayjob["spec"]["entrypoint"])
    pod = at(spec, HEAD)["template"]["spec"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "config"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "config"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert list(params["arguments"]) == [f"{mount['mountPath']}/{name}" for name in config_map["data"]]
    assert params["go_on"]
    assert params["output"].is_relative_to(SHARED)
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]


def test_head_and_workers_see_the_same_shared_volume(rayjob):
    for group in (HEAD, WORKER):
        pod = at(rayjob["spec"], group)["template"]["spec"]
        assert {"name": "shared", "mountPath": SHARED} in pod["containers"][0]["volumeMounts"]
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": "safe-fedllm-shared"}} in pod["volumes"]


def test_the_jobs_configuration_loads_and_names_shared_paths_only(job_config):
    evaluation = job_config.evaluation
    paths = job_config.model.path, job_config.data.path, job_config.probe.path, evaluation.restricted_path, evaluation.benign_path
    assert all(Path(path).is_relative_to(SHARED) for path in paths)


def test_the_job_waits_for_gpus_and_fills_all_workers_when_they_are_there(rayjob, job_config):
    spec = rayjob["spec"]
    server, client = (
        node(at(spec, group)["template"]["spec"]["containers"][0]["resources"]["limits"], at(spec, group)["labels"])
        for group in (HEAD, WORKER)
    )
    most = at(spec, WORKER)["maxReplicas"]
    assert at(spec, WORKER)["minReplicas"] == 0
    first = plan(job_config, server, client, 0)
    assert (first.num_client_actors, first.num_placeable) == (most, 0)
    assert first.client_options["num_gpus"] + first.evaluation_options["num_gpus"] <= 1
    assert plan(job_config, server, client, most).num_placeable == most


def test_the_submitted_run_waits_for_gpus_and_fills_all_workers_when_they_are_there(ray_up, submitted):
    path, overrides = split_arguments(submitted["arguments"])
    config = load_config(None, [*overrides, "clients.count=16", "defense.level=shadow"])
    types = ray_up["available_node_types"]
    server, client = (node(types[name]["resources"], types[name]["labels"]) for name in ("server", "client"))
    most = types["client"]["max_workers"]
    assert path == Path("my.yaml")
    assert (types["client"]["min_workers"], ray_up["max_workers"]) == (0, most)
    first = plan(config, server, client, 0)
    assert (first.num_client_actors, first.num_placeable) == (most, 0)
    assert plan(config, server, client, most).num_placeable == most


def test_keys_of_both_examples_exist(config_map, submitted):
    def dotted(part, prefix=""):
        for key, value in part.items():
            yield from dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]

    overrides = [text.partition("=")[0] for text in submitted["arguments"] if "=" in text]
    assert overrides
    assert {*dotted(yaml.safe_load(config_map["data"]["my.yaml"])), *overrides} <= set(known_keys())


def test_the_server_label_is_that_of_the_head_alone(rayjob, ray_up, job_config, submitted):
    (override,) = [text for text in submitted["arguments"] if text.startswith("cluster.server_label=")]
    assert job_config.cluster.server_label == override.partition("=")[2] == f"{ROLE}=server"
    types = ray_up["available_node_types"]
    assert types[ray_up["head_node_type"]]["labels"] == at(rayjob["spec"], HEAD)["labels"] == {ROLE: "server"}
    assert types["client"]["labels"] == at(rayjob["spec"], WORKER)["labels"] == {ROLE: "client"}


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md", "docs/cluster.md"])
def test_documents_name_no_other_label(name):
    assert set(re.findall(r"safe-fedllm/role[=:] ?(\w+)", (ROOT / name).read_text())) <= {"server", "client"}
    assert not re.findall(r"server_label=(?!safe-fedllm/role=server|KEY=VALUE)\S*", (ROOT / name).read_text())


@pytest.mark.parametrize("path", [RAYJOB, RAY_UP], ids=lambda path: path.stem)
@pytest.mark.parametrize("tool", ["safe-fedllm", "ray"])
def test_commands_in_the_comments_parse_and_name_the_file(path, tool):
    commands = commands_in_comments(path, tool)
    assert commands or (path, tool) == (RAYJOB, "ray")
    for command in commands:
        named = parse(command).get("cluster_config_file", "cluster/deploy/ray-up.yaml")
        assert (ROOT / named).samefile(RAY_UP)


def test_every_ray_start_parses_and_asks_for_the_token(ray_up):
    for role in ("head", "worker"):
        stop, start = ray_up[f"{role}_start_ray_commands"]
        assert parse(stop) is not None
        export, _, command = start.partition("; ")
        assert export == "export RAY_AUTH_MODE=token"
        assert parse(command)["head"] == (role == "head")
    assert "--env=RAY_AUTH_MODE=token" in ray_up["docker"]["run_options"]
    assert ray_up["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_commands_of_ray_up_are_shell(ray_up):
    for key, commands in ray_up.items():
        for command in commands if key.endswith("_commands") else []:
            assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0, command


def test_the_token_comes_from_a_secret_that_the_comments_tell_to_make(rayjob):
    auth = rayjob["spec"]["rayClusterSpec"]["authOptions"]
    assert auth["mode"] == "token"
    assert f"kubectl create secret generic {auth['secretName']} --from-literal=auth_token=" in RAYJOB.read_text()


def test_images_hold_the_ray_that_the_project_is_tested_with(ray_up, rayjob):
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    assert set(re.findall(r"rayproject/ray:(\S+?)-py311-gpu", RAYJOB.read_text() + RAY_UP.read_text())) == {pinned}
