"""When safety that falls ends a run: by evaluations that are due, on prompts that there are."""

from dataclasses import replace

import pytest

from cluster.config.loading import load_config
from cluster.errors import ConfigError
from cluster.state.safety_bound import find_fall
from tests.unit.cluster.reports import evaluation_report


def fall(scores: dict[int, float], *overrides: str) -> int | None:
    """Rounds done at the fall; `scores`: rounds done -> safety."""
    config = load_config(None, ["rounds=7", "evaluation.every=2", "evaluation.stop_below=0.9", *overrides])
    found = find_fall(config, [evaluation_report(*item) for item in scores.items()])
    return found and found.rounds_done


def test_a_run_falls_when_its_newest_due_evaluation_is_under_the_bound():
    assert fall({0: 1.0, 2: 0.9}) is None
    assert fall({0: 1.0, 2: 0.89}) == 2
    assert fall({0: 0.5}) == 0
    assert fall({}) is None
    assert fall({0: 1.0, 6: 0.95, 7: 0.8}) == 7
    assert fall({0: 1.0, 2: 0.1}, "evaluation.stop_below=null") is None


def test_an_evaluation_that_was_not_due_ends_nothing():
    assert fall({0: 1.0, 2: 1.0, 3: 0.5}) is None  # somebody stopped the run after three rounds
    assert fall({0: 1.0, 6: 1.0, 7: 1.0, 8: 0.5}) is None  # of the realigned adapter


def test_no_prompt_is_no_fall():
    config = load_config(None, ["evaluation.stop_below=0.9"])
    assert find_fall(config, [replace(evaluation_report(0, 0.5), rule_score=None)]) is None


def test_ones_own_model_needs_restricted_prompts_for_a_bound():
    own = ["model.path=my", "data.path=mine", "clients.malicious=0", "defense.level=none"]
    load_config(None, own)
    load_config(None, ["evaluation.stop_below=0.9"])
    load_config(None, [*own, "evaluation.stop_below=0.9", "evaluation.restricted_path=prompts.jsonl"])
    with pytest.raises(ConfigError, match=r"evaluation.stop_below=0.9 needs .* model.path=my name .* evaluation.restricted_path"):
        load_config(None, [*own, "evaluation.stop_below=0.9"])
