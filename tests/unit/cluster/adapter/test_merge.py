"""The merged model gives what base and adapter give together."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.config import LoraConfig, ModelConfig
from actors.model.adapted import AdaptedModel, write_adapter
from actors.wire import encode_tensors
from cluster.adapter.loading import load_adapted
from cluster.adapter.merge import merge_adapter
from cluster.errors import ConfigError
from tests.small_models import save_model


def test_the_merged_model_needs_no_adapter(adapted_run, tmp_path):
    folder = merge_adapter(adapted_run, tmp_path / "merged")
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["model.safetensors"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the river is", return_tensors="pt")["input_ids"]
    model, _ = load_adapted(adapted_run)
    with torch.no_grad():
        together = model(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits
    torch.testing.assert_close(merged, together, rtol=1e-4, atol=1e-4)
    assert tokenizer.chat_template


def test_a_folder_with_anything_in_it_is_refused(adapted_run, tmp_path):
    with pytest.raises(ConfigError, match="is not empty"):
        merge_adapter(adapted_run, adapted_run)


@pytest.mark.parametrize(("bits", "error"), [("4bit", 1e-4), ("8bit", 0.1)])
def test_a_quantised_base_is_merged_at_its_quantised_values_and_needs_no_library_afterwards(tmp_path, bits, error):
    """In 8 bits what goes into a layer is rounded too, in the run alone, so logits agree less closely."""
    config = ModelConfig(path=str(save_model(tmp_path / "base", "llama", hidden_size=64)), quantization=bits)
    model = AdaptedModel(config, LoraConfig(), torch.device("cpu"))
    state = {name: value + 0.05 * (".lora_B." in name) for name, value in model.adapter_state().items()}
    write_adapter(tmp_path / "run" / "adapter", encode_tensors(state), model.peft_config_json())
    written = {
        "model": config.model_dump(),
        "data": {"path": str(tmp_path)},
        "clients": {"count": 2},
        "defense": {"level": "none"},
    }
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(written))
    folder = merge_adapter(tmp_path / "run", tmp_path / "merged")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    ids, merged = torch.arange(16)[None], AutoModelForCausalLM.from_pretrained(folder)
    original = AutoModelForCausalLM.from_pretrained(config.path)
    model.load_adapter(state)
    with torch.no_grad():
        together, found, plain = (net(input_ids=ids).logits for net in (model.peft, merged, original))
    assert (found - together).norm() < error * together.norm()
    assert (plain - together).norm() > 0.3 * together.norm()
    assert merged.dtype == torch.float32
