"""Canary and evaluation on one model: at the same time, each measures what it does alone."""

import threading
from dataclasses import replace

from actors.config import EvaluationConfig
from actors.evaluation import Evaluation
from actors.server_data import Canary
from actors.server_model import ServerModel
from actors.wire import decode_tensors, encode_tensors
from actors.world.datasets import write_canary, write_evaluation
from tests.unit.actors.builders import open_round

ROUND = open_round("good", num_steps=8, batch_size=16, learning_rate=0.01)


def test_an_evaluation_and_the_canary_do_not_disturb_each_other(base_config, lora, model, world, tokens_of, tmp_path):
    restricted, benign = map(str, write_evaluation(world, tmp_path, 24, 24))
    settings = EvaluationConfig(
        restricted_path=restricted, benign_path=benign, refusals=world.language.refusals, max_new_tokens=24, batch_size=4
    )
    (rows,), initial = tokens_of(write_canary(world, tmp_path, 32)), model.initial_adapter()
    moved = {name: tensor + 0.01 for name, tensor in decode_tensors(initial).items()}
    other = encode_tensors(moved)
    alone = Evaluation(base_config, lora, settings, 64).evaluate(0, 0, other)
    both, found = ServerModel(base_config, lora, rows, 32, 0, settings, 64), []
    thread = threading.Thread(target=lambda: found.append(both.evaluate(0, 0, other)))
    thread.start()
    losses = []
    while thread.is_alive():
        losses.append(both.open_round(ROUND, initial))
    thread.join()
    assert replace(found[0], seconds=0) == replace(alone, seconds=0)
    assert set(losses) == {Canary(base_config, lora, rows, per_round=32, seed=0).open_round(ROUND, initial)}
    assert len(losses) > 3
