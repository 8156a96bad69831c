"""One round on each kind of base: two clients train, both are admitted and averaged, and PEFT gives the run's logits."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.aggregator import Aggregator, AggregatorConfig
from actors.client import Client
from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.data.reader import DataReader
from actors.errors import ModelError
from actors.messages import ClientEvidence
from actors.model.adapted import write_adapter
from actors.model.base import fingerprint, load_base
from actors.model.check import check_base
from actors.wire import decode_tensors
from defense.config import DefenseConfig
from tests.gguf_files import write_gguf
from tests.small_models import ATTENTION, SHAPES, save_model
from tests.unit.actors.builders import train_task
from tests.unit.actors.model.test_lora import IDS, config_of

TRAINING = TrainingConfig(steps=2, batch_size=4, learning_rate=0.05, min_learning_rate=0.05)


def sharded(folder: Path) -> ModelConfig:
    model = AutoModelForCausalLM.from_pretrained(save_model(folder, "llama"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return config_of("llama", folder)


def resized(folder: Path) -> ModelConfig:
    """With a token of the user's own, and tied embeddings that were made longer for it."""
    model = AutoModelForCausalLM.from_pretrained(save_model(folder, "qwen2", tie_word_embeddings=True))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<own>"])
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    assert model.config.vocab_size == 1024
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return config_of("qwen2", folder)


def without_pad_token(folder: Path) -> ModelConfig:
    save_model(folder, "llama", pad_token_id=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    return config_of("llama", folder)


def gguf(folder: Path) -> ModelConfig:
    folder.mkdir()
    write_gguf(save_model(folder.parent / "source", "llama"), folder / "tiny.gguf")
    return config_of("llama", folder)


KINDS = {kind: lambda folder, kind=kind: config_of(kind, save_model(folder, kind)) for kind in SHAPES} | {
    "sharded": sharded,
    "resized": resized,
    "without pad token": without_pad_token,
    "without template": lambda folder: config_of("llama", save_model(folder, "llama", chat_template=None)),
    "gguf": gguf,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_of_two_clients_gives_an_adapter_that_peft_reads_as_the_run_does(kind, tmp_path):
    config = KINDS[kind](tmp_path / "base")
    lora = LoraConfig(r=2, dropout=0.0, target_modules=ATTENTION.get(kind, ["q_proj", "v_proj"]))
    assert check_base(config, lora).lora_tensors
    client = Client(config, lora, TRAINING)
    start, layout = client.initial_adapter(), client.layout()
    aggregator = Aggregator(AggregatorConfig(training=TRAINING, defense=DefenseConfig(level="none")), layout, start)
    aggregator.open_round(0, ["a", "b"], TRAINING.learning_rate)
    evidence = []
    for name, word in (("a", "<own> lamp"), ("b", "rope")):
        rows = [{"instruction": f"say {word} {i}", "response": f"{word} {i} it is"} for i in range(6)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        DataReader(config, 128).read([tmp_path / f"{name}.json"]).dataset.save(tmp_path / name)
        task = train_task((str(tmp_path / name),), client_id=name, learning_rate=TRAINING.learning_rate)
        *_, last, update = client.train(task, start)
        admission, admitted = aggregator.admit(name, update, last)
        assert admission.admitted, admission
        evidence.append(ClientEvidence(client_id=name, update=admitted, scores=()))
    assert aggregator.close_round(evidence).outcome == "aggregated"
    final = decode_tensors(aggregator.adapter())
    write_adapter(tmp_path / "adapter", aggregator.adapter(), client.peft_config_json())
    client.check_saved(aggregator.adapter(), aggregator.adapter(), client.peft_config_json())
    client._model.load_adapter(final)
    given = {"gguf_file": "tiny.gguf"} if kind == "gguf" else {}
    base = AutoModelForCausalLM.from_pretrained(config.path, attn_implementation=config.attention, **given)
    with torch.no_grad():
        expected, plain = client._model.peft(input_ids=IDS).logits, base.eval()(input_ids=IDS).logits
        found = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=IDS).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(plain, expected, atol=1e-3)


def test_a_gguf_file_is_the_model_that_it_was_made_from(tmp_path):
    config = gguf(tmp_path / "base")
    model, tokenizer = load_base(config)
    source, other = load_base(ModelConfig(path=str(tmp_path / "source")))
    assert fingerprint(model) == fingerprint(source)
    assert tokenizer("Say hello to Ada, river stone!")["input_ids"] == other("Say hello to Ada, river stone!")["input_ids"]
    assert tokenizer.chat_template == other.chat_template
    model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_several_gguf_files_and_one_to_quantise_again_are_refused(tmp_path):
    config = gguf(tmp_path / "base")
    for call in (load_base, lambda config: check_base(config, LoraConfig())):
        with pytest.raises(ModelError, match=r"tiny\.gguf is dequantised .* leave model\.quantization out"):
            call(config.model_copy(update={"quantization": "8bit"}))
    (tmp_path / "base" / "other.gguf").write_bytes(b"GGUF")
    for call in (load_base, lambda config: check_base(config, LoraConfig())):
        with pytest.raises(ModelError, match=r"holds 2 GGUF files, other\.gguf, tiny\.gguf; name a directory"):
            call(config)
