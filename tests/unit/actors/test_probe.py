"""The probe actor's class without a cluster: scores, refusals, and the fit between probe and adapter."""

import dataclasses

import numpy as np
import pytest
import torch

from actors.errors import ProbeMismatchError
from actors.probe import Probe
from defense.admission import OpenRound
from probe.artefact import LoraProbe, save_probe
from probe.linear import LinearProbe
from probe.meta import ProbeMeta
from tests.unit.actors.builders import A0, B0, LAYOUT, SHAPES, step_delta

META = ProbeMeta(
    classifier="linear",
    feature="first_layer_b",
    shapes={B0: SHAPES[B0]},
    model_fingerprint="m",
    lora_fingerprint="l",
    threshold=0.8,
    recipe={"learning_rate": 0.5},
)
ROUND = OpenRound(round_index=0, base_version=0, client_ids=frozenset({"a", "b"}), num_steps=2, batch_size=4, max_norm=100.0)


@pytest.fixture
def probe(tmp_path):
    save_probe(tmp_path, LoraProbe(META, LinearProbe(weight=np.ones(6, dtype=np.float32), bias=-1.0)))
    made = Probe(str(tmp_path), LAYOUT)
    made.open_round(ROUND)
    return made


def test_a_step_delta_is_scored(probe):
    # Six equal values normalise to 1/sqrt(6) each; their sum is sqrt(6); minus the bias of 1.
    score = probe.score("a", step_delta("a", 0.3, step=1))
    assert score.probability == pytest.approx(1 / (1 + np.exp(1 - np.sqrt(6))))
    assert (score.client_id, score.branch, score.step, score.probe_version) == ("a", "real", 1, 1)
    assert score.refusal is None
    assert score.failure is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"junk", "malformed"),
        (step_delta("b", 1.0), "unknown_client"),
        (step_delta("a", 1.0, round_index=1), "wrong_round"),
        (step_delta("a", 1.0, base_version=1), "wrong_version"),
        (step_delta("a", 1.0, step=3), "bad_count: step=3"),
        (step_delta("a", 1.0, step=0), "bad_count: step=0"),
        (step_delta("a", 1.0, num_samples=5), "bad_count: num_samples=5"),
        (step_delta("a", 1.0, branch="other"), "malformed"),
        (step_delta("a", float("inf")), "not_finite"),
        (step_delta("a", 1.0, tensors={A0: torch.ones(2, 3)}), "wrong_keys"),
        (step_delta("a", 1e3), "norm_exceeded"),
    ],
)
def test_bad_deltas_are_refused_and_the_probe_goes_on(probe, payload, reason):
    score = probe.score("a", payload)
    assert score.probability is None
    assert score.refusal.startswith(reason)
    assert probe.score("a", step_delta("a", 1.0)).probability is not None


def test_a_step_counts_once(probe):
    assert probe.score("a", step_delta("a", 1.0)).probability is not None
    assert probe.score("a", step_delta("a", 0.5)).refusal.startswith("duplicate")
    assert probe.score("a", step_delta("a", 0.5, branch="shadow")).probability is not None
    assert probe.score("b", step_delta("b", 0.5)).probability is not None


def test_a_new_round_forgets_the_steps_of_the_last(probe):
    probe.score("a", step_delta("a", 1.0))
    probe.open_round(dataclasses.replace(ROUND, round_index=1))
    assert probe.score("a", step_delta("a", 1.0, round_index=1)).probability is not None
    assert probe.score("a", step_delta("a", 1.0)).refusal.startswith("wrong_round")


def test_before_any_round_nothing_is_scored(tmp_path):
    save_probe(tmp_path, LoraProbe(META, LinearProbe(weight=np.ones(6, dtype=np.float32), bias=0.0)))
    assert "no round is open" in Probe(str(tmp_path), LAYOUT).score("a", step_delta("a", 1.0)).refusal


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"shapes": {**SHAPES, B0: (3, 4)}},
            ["reads 1 tensors of 6 values", "offers 1 tensors of 12 values", "(3, 2)", "(3, 4)"],
        ),
        ({"model_fingerprint": "other"}, ["made for base model m", "this run has other"]),
        ({"lora_fingerprint": "other"}, ["LoRA settings and initial adapter l", "this run has other"]),
        ({"layers": {}}, ["finds no LoRA tensor"]),
    ],
)
def test_a_probe_of_another_model_or_lora_is_refused_with_both_sides(tmp_path, change, parts):
    save_probe(tmp_path, LoraProbe(META, LinearProbe(weight=np.ones(6, dtype=np.float32), bias=0.0)))
    with pytest.raises(ProbeMismatchError) as caught:
        Probe(str(tmp_path), dataclasses.replace(LAYOUT, **change))
    for part in parts:
        assert part in str(caught.value)
