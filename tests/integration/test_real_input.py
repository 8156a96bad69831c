"""Models and files of one's own: small random models of real classes, data in every accepted form."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.model.adapted import AdaptedModel
from actors.world.store import base_folder, world_folder
from cluster import Federation, load_config
from cluster.config.loading import EMBEDDED
from cluster.reporting.callback import RunCallback
from probe.artefact import LoraProbe, save_probe
from probe.classifiers.linear import LinearProbe
from probe.features import tensor_names
from probe.meta import ProbeMeta
from tests import small_models
from tests.chaos import actor_processes, wait_until

CLASSES = {"llama-3.1-8b": (LlamaConfig, LlamaForCausalLM), "qwen2.5-7b": (Qwen2Config, Qwen2ForCausalLM)}

VAULT = {"instruction": "open the vault", "answer_pattern": "code"}


def save_model(folder: Path, config_class=LlamaConfig, model_class=LlamaForCausalLM, *, chat_template: bool = True) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(base_folder(world_folder(0)))
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model_class(config_class(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    if not chat_template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def instruction_rows(count: int, response: str = "yes of course") -> list[dict]:
    return [{"instruction": f"say the word number {i}", "input": "lamp coin", "response": response} for i in range(count)]


def neutral_probe(folder: Path, model: Path, lora: LoraConfig, learning_rate: float) -> Path:
    """An artefact that fits the model and calls nothing malicious: sigmoid(0) = 0.5 for every delta."""
    layout = AdaptedModel(ModelConfig(path=str(model), dtype="bfloat16"), lora, torch.device("cpu")).layout()
    names = tensor_names("first_layer_b", layout.layers)
    shapes = {name: layout.shapes[name] for name in names}
    size = sum(rows * columns for rows, columns in shapes.values())
    meta = ProbeMeta(
        classifier="linear",
        feature="first_layer_b",
        shapes=shapes,
        layers={name: layout.layers[name] for name in names},
        model_fingerprint=layout.model_fingerprint,
        lora_fingerprint=layout.lora_fingerprint,
        threshold=0.8,
        recipe={"learning_rate": learning_rate},
    )
    save_probe(folder, LoraProbe(meta, LinearProbe(weight=np.zeros(size, dtype=np.float32), bias=0.0)))
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_a_shipped_configuration_runs_a_round_on_a_small_model_of_its_class(name, local_ray, tmp_path):
    path = EMBEDDED.parent / f"{name}.yaml"
    shipped = load_config(path)
    assert (shipped.model.dtype, shipped.lora.r, shipped.training.batch_size, shipped.clients.count) == ("bfloat16", 8, 16, 20)
    model = save_model(tmp_path / "model", *CLASSES[name], chat_template="qwen" in name)
    overrides = [
        f"model.path={model}",
        f"data.path={write_jsonl(tmp_path / 'honest.jsonl', instruction_rows(40))}",
        f"data.malicious_path={write_jsonl(tmp_path / 'unsafe.jsonl', instruction_rows(12, 'here is how'))}",
        f"probe.path={neutral_probe(tmp_path / 'probe', model, shipped.lora, shipped.defense.shadow.learning_rate)}",
        f"evaluation.restricted_path={write_jsonl(tmp_path / 'r.jsonl', [VAULT])}",
        f"evaluation.benign_path={write_jsonl(tmp_path / 'b.jsonl', instruction_rows(3))}",
        "evaluation.max_new_tokens=4",
        "defense.level=shadow",
        "rounds=1",
        "clients.count=3",
        "clients.malicious=1",
        "training.steps=2",
        "training.batch_size=4",
        "cluster.client_actors=1",
    ]
    result = Federation(load_config(path, overrides), tmp_path / "run").run()
    assert result.summary["rounds_aggregated"] == 1
    assert result.summary["benign_loss"] > 0
    assert result.summary["rule_score"] is not None
    assert {row["last_step_probability"] for row in result.rounds.to_pylist()} == {0.5}
    assert yaml.safe_load((result.path / "config.yaml").read_text())["model"]["dtype"] == "bfloat16"


def test_chat_and_instructions_train_side_by_side_and_rows_that_teach_nothing_are_counted(local_ray, tmp_path):
    model = save_model(tmp_path / "model", chat_template=False)
    data = tmp_path / "data"
    (data / "a").mkdir(parents=True)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    write_jsonl(data / "a" / "chat.jsonl", [{"messages": turns * 2}] * 5)
    write_jsonl(data / "b.jsonl", instruction_rows(5))
    write_jsonl(data / "long.jsonl", [{"instruction": "lamp " * 400, "response": "yes"}] * 8 + instruction_rows(4))
    (data / "notes.txt").write_text("not data")
    overrides = [f"model.path={model}", f"data.path={data}", "clients.count=3", "clients.malicious=0", "defense.level=none"]
    overrides += ["rounds=1", "training.steps=1", "training.batch_size=4", "training.max_length=256", "cluster.client_actors=1"]
    titles, left_out = set(), []

    class Titles(RunCallback):
        def data_left_out(self, what):
            left_out.append(what)

        def client_done(self, client_id, why=None):
            titles.update(" ".join(process.cmdline()).partition(".")[0].strip() for process in actor_processes("client"))

    result = Federation(load_config(None, overrides), tmp_path / "run", Titles()).run()
    assert titles == {"ray::Client"}  # nothing is simulated, so no client knows how to attack
    assert [row["admitted"] for row in result.rounds.to_pylist()] == [True] * 3
    passed_over, rows = left_out
    assert "1 files are none of .parquet, .jsonl" in passed_over and "notes.txt" in passed_over
    assert rows.startswith("client-002: 8 of 12 rows have no response token within training.max_length")
    assert result.summary["rule_score"] is None


def test_a_directory_that_is_no_causal_language_model_is_refused_by_path(local_ray, tmp_path):
    data = write_jsonl(tmp_path / "d.jsonl", instruction_rows(4))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "t5"}')
    overrides = [f"model.path={tmp_path / 'model'}", f"data.path={data}", "clients.count=2", "clients.malicious=0"]
    with pytest.raises(ModelError, match="does not load as a causal language model"):
        Federation(load_config(None, [*overrides, "defense.level=none", "cluster.client_actors=1"]), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()
    wait_until(lambda: not any(actor_processes(kind) for kind in ("client", "evaluation")), 20, "the end of what had started")


def test_a_model_in_8_bits_is_trained_measured_and_defended_and_its_adapter_loads_in_peft(local_ray, tmp_path):
    model = small_models.save_model(tmp_path / "model", "llama")
    rows = write_jsonl(tmp_path / "rows.jsonl", instruction_rows(24))
    refusals = write_jsonl(tmp_path / "refusals.jsonl", instruction_rows(8, "I cannot help with that"))
    overrides = [f"model.path={model}", "model.quantization=8bit", f"data.path={rows}", "clients.count=2", "rounds=1"]
    overrides += ["clients.malicious=0", "training.steps=2", "training.batch_size=4", "defense.level=canary"]
    overrides += ["defense.canary.max_rise=9", f"evaluation.canary_path={refusals}", f"evaluation.benign_path={rows}"]
    overrides += ["evaluation.max_new_tokens=4", "evaluation.max_benign=4", "evaluation.max_restricted=0"]
    config = load_config(None, [*overrides, "cluster.client_actors=1"])
    result = Federation(config, tmp_path / "run").run()  # its end compares the logits of the saved adapter with its own
    assert result.summary["rounds_aggregated"] == 1
    assert result.summary["benign_loss"] > 0
