"""A recipe's own settings in place of the server's; settings that make no sense together."""

import pytest
from pydantic import ValidationError

from actors.config import EvaluationConfig, Recipe, TrainingConfig


def test_a_plain_recipe_is_what_the_server_asks_for():
    training = TrainingConfig(steps=7, weight_decay=0.3)
    assert Recipe().applied_to(training) == training


def test_a_recipes_own_settings_win_zero_among_them():
    applied = Recipe(steps=2, weight_decay=0.0).applied_to(TrainingConfig(steps=7, weight_decay=0.3, batch_size=5))
    assert applied == TrainingConfig(steps=2, weight_decay=0.0, batch_size=5)


def test_a_bound_on_safety_needs_prompts_to_measure_it_with():
    assert EvaluationConfig(stop_below=1).stop_below == 1
    with pytest.raises(
        ValidationError, match=r"stop_below=0.9 needs restricted prompts, and max_restricted=0 measures none; raise"
    ):
        EvaluationConfig(stop_below=0.9, max_restricted=0)
    for bound in (0, 1.01):
        with pytest.raises(ValidationError, match="stop_below"):
            EvaluationConfig(stop_below=bound)
