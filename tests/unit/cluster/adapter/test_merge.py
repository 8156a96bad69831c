"""The merged model gives what base and adapter give together."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.adapter.loading import load_adapted
from cluster.adapter.merge import merge_adapter
from cluster.errors import ConfigError


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
