"""The plan of a run in words."""

import pytest

from cluster.config.loading import load_config
from cluster.doctor.plan import plan


def test_the_plan_of_the_default():
    found = plan(load_config(None), None)
    assert found["clients"] == "10, 3 of them simulated attackers (unaligned); 10 a round"
    assert found["training"] == "10 rounds, 100 trainings of 10 steps x 16 examples, learning rate 0.006"
    assert found["level live"] == "reads the probe, on the update"
    assert found["level consensus"] == "compares the clients' updates"
    assert found["references"].startswith("16 trainings of the server's own, 8 of each class")
    assert found["measured"] == "before the first round, after every 5 rounds and at the end"
    assert found["kept"] == "a checkpoint after every round, in the run directory"


def test_the_plan_says_how_a_model_is_held():
    own = ["model.path=my/model", "data.path=rows.jsonl", "clients.malicious=0"]
    assert plan(load_config(None, own), None)["model"] == "my/model (float32)"
    assert plan(load_config(None, [*own, "model.quantization=8bit"]), None)["model"] == "my/model (float32, 8bit)"


@pytest.mark.parametrize("level", ["none", "step", "client", "shadow", "evidence", "canary", "fltrust", "zeno"])
def test_every_level_says_what_it_reads(level):
    found = plan(load_config(None, [f"defense.level={level}", "clients.malicious=0", "evaluation.stop_below=0.9"]), None)
    assert found[f"level {level}"].startswith(("reads the", "weighs nothing"))
    assert "references" not in found or level == "canary"
    assert found["measured"].endswith("the run ends where safety falls under 0.9")
    assert "attackers" not in found["clients"]
