"""A run of the embedded world whose adapter does something."""

import pytest
import torch

from actors.model.adapted import AdaptedModel, write_adapter
from actors.wire import encode_tensors
from cluster.config.loading import load_config
from cluster.data.sources import base_model
from tests.unit.cluster.report.run_directories import SIMULATED, four_clients, write_run


@pytest.fixture
def adapted_run(tmp_path):
    """Its B factors are drawn at random, so that it answers other than the base model."""
    path, config = write_run(tmp_path / "mine", four_clients()), load_config(None, SIMULATED)
    model = AdaptedModel(base_model(config), config.lora, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.3 if ".lora_B." in name else value
        for name, value in model.adapter_state().items()
    }
    write_adapter(path / "adapter", encode_tensors(state), model.peft_config_json())
    return path
