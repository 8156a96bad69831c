"""The checks of doctor that need no cluster, and how findings are printed."""

import json
import threading

import pytest
from rich.console import Console

from actors.config import ModelConfig
from cluster.config.loading import load_config
from cluster.doctor import local_checks
from cluster.doctor.checks import as_free, check_all, print_findings, room
from cluster.doctor.local_checks import Finding, check_versions, further_packages
from cluster.errors import ClusterError, DeadlineError
from cluster.state.checkpoints import Checkpoints
from cluster.workers.nodes import Node
from tests.chat_templates import BRACKETS, ENDS, NO_SYSTEM, THINKING
from tests.small_models import save_model
from tests.unit.cluster.doctor.test_node_faults import GIB, GOOD, NODE


def test_memory_is_what_is_free_where_that_is_less_than_ray_counts():
    assert as_free(NODE, GOOD).resources["memory"] == 6 * GIB
    assert as_free(NODE, GOOD | {"free_bytes": 20 * GIB}).resources["memory"] == 8 * GIB
    assert as_free(NODE, "no answer") == NODE


def test_room_says_what_would_start_and_what_is_missing():
    config, model = load_config(None, ["cluster.client_actors=2"]), ModelConfig()
    assert "a run would start 2 client actors" in room(config, model, [Node({"CPU": 2, "memory": 8 * GIB})])
    with pytest.raises(ClusterError, match=r"need about .* GiB"):
        room(config, model, [Node({"CPU": 2, "memory": GIB / 4})])


@pytest.fixture
def no_ray(monkeypatch):
    """Other tests may have left this process connected."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def test_a_quantised_model_asks_each_node_for_its_library():
    own = ["model.path=m", "data.path=rows.jsonl", "clients.malicious=0"]
    assert further_packages(load_config(None, own)) == ()
    quantised = load_config(None, [*own, "model.quantization=8bit"])
    assert further_packages(quantised) == ("bitsandbytes",)
    assert "bitsandbytes 0." in check_versions(quantised)


def findings(tmp_path, *overrides: str) -> dict[str, Finding]:
    """Of a cluster at whose address nothing answers."""
    config = load_config(None, ["data.samples_per_client=20", "cluster.address=127.0.0.1:9", *overrides])
    return {finding.check: finding for finding in check_all(config, tmp_path / "runs", timeout_s=1)}


def test_this_machine_and_the_inputs_of_a_run_are_checked_before_the_cluster(no_ray, tmp_path):
    found = findings(tmp_path)
    assert [finding.check for finding in found.values() if finding.ok] == [
        "versions",
        "run directory",
        "base model",
        "model, data, prompts and probe",
    ]
    assert "torch 2" in found["versions"].detail
    assert "LlamaForCausalLM, 0.45 M parameters; LoRA: 42 tensors with" in found["base model"].detail
    assert "10 clients, probe per_layer" in found["model, data, prompts and probe"].detail
    assert "no Ray head answers" in found["connection"].detail
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_and_a_missing_probe_are_named(no_ray, tmp_path):
    (tmp_path / "file").write_text("")
    found = findings(tmp_path, f"checkpoint.path={tmp_path}/file/x", "probe.path=/nowhere")
    assert f"cannot write to {tmp_path}/file/x" in found["checkpoint.path"].detail
    assert "probe.path=/nowhere: no probe.json there" in found["model, data, prompts and probe"].detail


SYSTEM = {"messages": [{"role": role, "content": role} for role in ("system", "user", "assistant")]}
GOOD_ROW = {"instruction": "hello", "response": "good day"}


@pytest.mark.parametrize(
    ("kind", "template", "rows", "overrides", "detail"),
    [
        (
            "gemma3_text",
            NO_SYSTEM,
            [GOOD_ROW, SYSTEM],
            [],
            "row 1: the chat template refuses a conversation of roles system, user:",
        ),
        ("qwen3", THINKING, [{"messages": SYSTEM["messages"][1:] * 2}], [], None),
        ("mistral", BRACKETS, [SYSTEM], [], "row 0: the chat template refuses a conversation of roles system"),
        ("gpt2", None, [GOOD_ROW, {**GOOD_ROW, "instruction": "lamp " * 300}], ["training.max_length=512"], "row 1: it takes "),
        ("opt", None, [GOOD_ROW], ["training.max_length=3"], "no row has a token of its response within training.max_length=3"),
        ("llama", ENDS, [{**GOOD_ROW, "response": 5}], [], "row 0: response should be text, got 5"),
        ("phi3", ENDS, [GOOD_ROW], [], None),
    ],
)
def test_what_a_model_cannot_read_is_found_before_anything_starts(no_ray, tmp_path, kind, template, rows, overrides, detail):
    base = save_model(tmp_path / "base", kind, chat_template=template)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"model.path={base}", f"data.path={tmp_path}/d", "defense.level=none", "clients.malicious=0", "clients.count=1"]
    found = findings(tmp_path, *own, "lora.target_modules=all-linear", *overrides)["model, data, prompts and probe"]
    assert found.ok == (detail is None)
    assert detail is None or (f"data.path: data file {tmp_path}/d/a.jsonl" in found.detail and detail in found.detail)


def test_what_is_left_out_of_the_data_is_said(no_ray, tmp_path):
    base = save_model(tmp_path / "base", "llama")
    long = {**GOOD_ROW, "instruction": "lamp " * 40}
    (tmp_path / "d" / ".git").mkdir(parents=True)
    (tmp_path / "d" / "notes.txt").write_text("not data")
    (tmp_path / "d" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (GOOD_ROW, long, long)))
    own = [f"model.path={base}", f"data.path={tmp_path}/d", "defense.level=none", "clients.malicious=0", "clients.count=1"]
    config = load_config(None, ["cluster.address=127.0.0.1:9", "training.max_length=24", *own])
    said = [item.detail for item in check_all(config, tmp_path / "runs", timeout_s=1) if item.check == "left out of the data"]
    assert [text.partition(":")[0] for text in said] == ["data.path", "client-000"]
    assert "notes.txt" in said[0] and "2 of 3 rows have no response token" in said[1]
    (tmp_path / "d" / "b" / "more").mkdir(parents=True)
    (tmp_path / "d" / "a.jsonl").rename(tmp_path / "d" / "b" / "a.jsonl")
    nested = findings(tmp_path, *own)["model, data, prompts and probe"]
    assert "holds the folder more, whose files would not be read; move them up" in nested.detail


def test_a_broken_base_and_a_misspelt_target_are_found_before_anything_starts(no_ray, tmp_path):
    base = save_model(tmp_path / "base", "qwen2")
    own = [f"model.path={base}", f"data.path={tmp_path}/none.jsonl", "defense.level=none", "clients.malicious=0"]
    misspelt = [*own, "lora.target_modules=[q_proj,gate_porj]"]
    assert (
        "'gate_porj' matches no module of Qwen2ForCausalLM; it has gate_proj"
        in findings(tmp_path, *misspelt)["base model"].detail
    )
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-9])
    found = findings(tmp_path, *own)["base model"]
    assert not found.ok
    assert found.detail.startswith(f"model.path={base} does not load")
    assert "is cut off or damaged" in found.detail


def test_a_store_that_never_answers_does_not_hold_up_the_rest(monkeypatch, tmp_path):
    released = threading.Event()
    monkeypatch.setattr(Checkpoints, "check_writable", lambda self: released.wait(60))
    monkeypatch.setattr(local_checks, "_WRITE_TIMEOUT_S", 0.1)
    with pytest.raises(DeadlineError, match=f"writing to {tmp_path} took longer than 0.1 s"):
        local_checks.check_writable(str(tmp_path))
    released.set()


def test_findings_are_lines_for_people_and_json_for_machines(capsys):
    seen = [Finding("a", True, "has [1, 2]"), Finding("b", False, "fix it")]
    assert not print_findings(seen, Console(width=100))
    assert capsys.readouterr().out == "ok    a: has [1, 2]\nwrong b: fix it\n"
    assert print_findings(seen[:1], None)
    assert json.loads(capsys.readouterr().out) == [{"check": "a", "ok": True, "detail": "has [1, 2]"}]
