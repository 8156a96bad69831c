"""Base and adapter side by side."""

import torch

from actors.config import EvaluationConfig
from actors.evaluation import Evaluation
from actors.model.adapted import AdaptedModel, choose_device
from actors.wire import decode_tensors
from cluster.adapter.chat import SideBySide
from cluster.config.loading import load_config
from cluster.data.sources import base_model
from tests.unit.cluster.report.run_directories import SIMULATED

PROMPT = "Say the first word: river stone"


def test_the_base_answers_as_the_evaluation_would_and_the_adapter_otherwise(adapted_run):
    pair = SideBySide(adapted_run, 24).answer(PROMPT)
    config = load_config(None, SIMULATED)
    measured = Evaluation(base_model(config), config.lora, EvaluationConfig(max_new_tokens=24), 64)
    initial = AdaptedModel(base_model(config), config.lora, choose_device()).initial_adapter()
    measured._adapter = decode_tensors(initial)
    torch.manual_seed(0)
    assert [pair.base] == measured._answer([measured._chat.ids(measured._chat.prompt([{"role": "user", "content": PROMPT}]))])
    assert pair.base
    assert pair.adapter != pair.base


def test_prompts_do_not_remember_each_other(adapted_run):
    models = SideBySide(adapted_run, 8)
    first = models.answer(PROMPT)
    models.answer("something else")
    assert models.answer(PROMPT) == first
