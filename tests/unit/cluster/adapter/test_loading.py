"""The adapter of a run, on its base model."""

import pytest
import torch
from safetensors.torch import load_file

from cluster.adapter.loading import load_adapted
from cluster.errors import ConfigError


def test_it_is_the_runs_adapter_and_the_base_without_it(adapted_run):
    model, tokenizer = load_adapted(adapted_run)
    ids = tokenizer("what", return_tensors="pt")["input_ids"]
    saved = load_file(adapted_run / "adapter" / "adapter_model.safetensors")
    loaded = {name.replace(".default.weight", ".weight"): value for name, value in model.named_parameters() if ".lora_" in name}
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits
    assert not torch.allclose(adapted, base)


def test_what_is_no_run_or_has_no_adapter_is_named(tmp_path, adapted_run):
    with pytest.raises(ConfigError, match="holds no run"):
        load_adapted(tmp_path / "nowhere")
    (adapted_run / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match="has no adapter yet; let its run end"):
        load_adapted(adapted_run)
