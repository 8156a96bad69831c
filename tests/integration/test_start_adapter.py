"""A run that continues from an adapter goes on, after a stop, from that adapter alone."""

import torch
from pytest import raises

from actors.model.adapted import AdaptedModel, write_adapter
from actors.wire import encode_tensors
from cluster import Federation, load_config
from cluster.data.sources import base_model
from cluster.errors import CheckpointError
from tests.integration.conftest import SMALL, forget_round


def test_a_resumed_run_refuses_another_start_adapter_and_goes_on_with_the_old_one(local_ray, tmp_path):
    start = tmp_path / "start"
    config = load_config(None, [*SMALL, "defense.level=none", "clients.count=2", "clients.malicious=0"])
    model = AdaptedModel(base_model(config), config.lora, torch.device("cpu"))

    def save(value: float) -> None:
        state = {name: tensor + value for name, tensor in model.adapter_state().items()}
        write_adapter(start, encode_tensors(state), model.peft_config_json())

    save(0.001)
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"start_from": str(start)})})
    whole = Federation(config, tmp_path / "run").run().summary["adapter_sha256"]
    forget_round(tmp_path / "run", 2)
    save(0.002)
    with raises(
        CheckpointError, match=f"lora.start_from={start} holds another adapter than when the run began; put that one back"
    ):
        Federation.resume(tmp_path / "run").run()
    save(0.001)
    assert Federation.resume(tmp_path / "run").run().summary["adapter_sha256"] == whole
