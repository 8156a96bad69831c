"""Utility: an update that makes a task's answers three times less likely, and points to their unlearning, weighs nothing."""

import math

import pytest

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds, reference_values
from defense.levels.utility import mean_cosine
from defense.signals import ClientSignals, Measured

LN_3 = math.log(3)


def seen(rise: float, cosine: float) -> ClientSignals:
    values = {"task_rise": rise, "task_cosine": cosine}
    return ClientSignals(client_id="a", by_signal={"validation": Measured(client_id="a", values=values)})


@pytest.mark.parametrize(
    ("rise", "cosine", "weight"),
    [
        (LN_3 + 0.01, 0.3, 0.0),
        (LN_3 + 0.01, 0.19, 1.0),
        (LN_3 - 0.01, 0.9, 1.0),
        (-5.0, -0.4, 1.0),
        (math.nan, 0.0, 0.0),
        (2.0, math.nan, 0.0),
    ],
)
def test_harm_and_direction_decide_together(rise, cosine, weight):
    config = DefenseConfig.model_validate({"level": "utility", "utility": {"max_cosine": 0.2}})
    said = levels.weigh(config, {}, [seen(rise, cosine)], level_bounds(config, {}))
    assert said.weights == {"a": weight}


def test_the_newest_round_counts_as_much_as_all_before_it():
    config, trust, weights = DefenseConfig.model_validate({"level": "utility", "utility": {"max_cosine": 0.2}}), {}, []
    for cosine in (0.0, 0.27, 0.27, 0.0):  # means 0, 0.18, (0.135 + 0.27) / 1.75 = 0.231, 0.108
        said = levels.weigh(config, trust, [seen(2.0, cosine)], level_bounds(config, {}))
        trust = said.trust
        weights.append(said.weights["a"])
    assert weights == [1.0, 1.0, 0.0, 1.0]
    assert mean_cosine(trust["utility"], "a") == pytest.approx(0.2025 / 1.875)
    unmeasured = levels.weigh(config, trust, [seen(math.nan, 0.0)], level_bounds(config, {}))
    assert unmeasured.trust == trust


def test_the_bound_is_the_limit_of_the_honest_references_whatever_the_unsafe_ones_have():
    config = DefenseConfig(level="utility", false_positive_rate=0.025)
    cosines = {"task_cosine": [math.tanh(z) for z in (0.01, 0.02, 0.03)]}
    known = reference_values(config, cosines, {"task_cosine": [0.0, 0.0, 0.0]}, "round 1")
    bound = level_bounds(config, known)["utility"]
    assert bound.state == "in force"
    assert bound.limit == pytest.approx(math.tanh(0.06968), abs=1e-4)  # 0.02 + 4.303 x 0.01 x sqrt(4 / 3)
    said = levels.weigh(config, {}, [seen(2.0, 0.08)], {"utility": bound})
    because = said.exclusions["a"].because
    assert because.startswith(
        "cosine to the unlearning of a task, in the mean over the client's rounds 0.08 is at or above 0.0696, which"
    )
