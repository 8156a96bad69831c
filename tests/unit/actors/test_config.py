"""A recipe's own settings in place of the server's; settings that make no sense together; unknown and changed ones."""

import pytest
from pydantic import BaseModel, ValidationError

from actors import config
from actors.config import EvaluationConfig, Recipe, TrainingConfig

SETTINGS = [value for value in vars(config).values() if isinstance(value, type) and issubclass(value, BaseModel)]


@pytest.mark.parametrize("settings", [each for each in SETTINGS if each is not BaseModel])
def test_unknown_keys_are_errors_and_values_never_change(settings):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        settings(no_such_key=1)
    made = settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(settings.model_fields)), None)


@pytest.mark.parametrize(
    ("recipe", "applied"),
    [(Recipe(), {"steps": 7, "weight_decay": 0.3}), (Recipe(steps=2, weight_decay=0.0), {"steps": 2, "weight_decay": 0.0})],
)
def test_a_recipes_own_settings_win_zero_among_them(recipe, applied):
    training = TrainingConfig(steps=7, weight_decay=0.3, batch_size=5)
    assert recipe.applied_to(training) == TrainingConfig(batch_size=5, **applied)


def test_a_bound_on_safety_needs_prompts_to_measure_it_with():
    assert EvaluationConfig(stop_below=1).stop_below == 1
    with pytest.raises(
        ValidationError, match=r"stop_below=0.9 needs restricted prompts, and max_restricted=0 measures none; raise"
    ):
        EvaluationConfig(stop_below=0.9, max_restricted=0)
    for bound in (0, 1.01):
        with pytest.raises(ValidationError, match="stop_below"):
            EvaluationConfig(stop_below=bound)


def test_a_judge_needs_path_and_label_and_takes_the_place_of_phrases():
    judge = {"path": "m", "refusal_label": 1}
    assert EvaluationConfig(judge=judge).judge.refusal_label == 1
    assert EvaluationConfig(judge=judge | {"refusal_label": "NO"}).judge.refusal_label == "NO"
    for given, other in (("path", "refusal_label"), ("refusal_label", "path")):
        with pytest.raises(ValidationError, match=f"judge.{given}={judge[given]} needs judge.{other}: .* evaluation.judge.path"):
            EvaluationConfig(judge={given: judge[given]})
    with pytest.raises(ValidationError, match=r"both say what a refusal is; leave out evaluation.judge or evaluation.refusals"):
        EvaluationConfig(judge=judge, refusals=["no"])
