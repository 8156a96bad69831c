"""defense/level_bounds.py: which levels of a composition have which bound, by hand."""

import math

import pytest

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds, rate, reference_values, referenced, unbounded_by_hand, unmeasured
from tests.unit.defense.levels.builders import measured, saw, signalled

EVERYTHING = signalled(update=saw(last=0.1), canary=measured(canary_rise=0.0), spectrum=measured(flatness=0.1))
LEVEL = "live+canary+spectrum+consensus"
RISES = {"canary_rise": (0.1, 0.2, 0.3)}


def test_the_rate_is_split_evenly_over_the_levels_that_have_a_bound():
    assert rate(DefenseConfig(level=LEVEL)) == 0.0025
    assert rate(DefenseConfig(level="live+zeno", false_positive_rate=0.04)) == 0.04
    # From below: 0.2 - t s sqrt(4/3), s = 0.1, on Fisher's z. t of 2 degrees of freedom: 6.964557 at 0.99, 1.885618 at 0.9.
    cosines = {"agreement": [math.tanh(z) for z in (0.1, 0.2, 0.3)]}
    for asked, t in ((0.01, 6.964557), (0.1, 1.885618)):
        config = DefenseConfig(level="consensus", false_positive_rate=asked)
        known = reference_values(config, cosines, {}, "round 1")
        limit = level_bounds(config, known)["consensus"].limit
        assert limit == pytest.approx(math.tanh(0.2 - t * 0.1 * (4 / 3) ** 0.5))


def test_a_key_goes_before_the_references_and_where_neither_is_there_nobody_passes():
    config = DefenseConfig(level=LEVEL, canary={"max_rise": 0.4})
    known = reference_values(config, RISES, {"canary_rise": (9.0,)}, "round 1")
    found = level_bounds(config, known, threshold=0.7)
    assert {name: (bound.state, bound.limit) for name, bound in found.items()} == {
        "live": ("in force", pytest.approx(0.7)),
        "canary": ("in force", 0.4),
        "spectrum": ("missing", None),
        "consensus": ("missing", None),
    }
    assert found["spectrum"].why == "no reference client was measured and defense.spectrum.max_flatness is not set"
    assert levels.weigh(config, {}, [EVERYTHING], found).weights == {"a": 0.0}
    assert set(unbounded_by_hand(config, 0.7)) == {"spectrum", "consensus"}
    assert referenced(config, 0.7) == {"spectrum", "flatness", "agreement"}


def test_references_that_give_no_bound_are_left_out_and_of_other_levels_too():
    benign = {"canary_rise": (0.1, 0.2), "flatness": (0.1, 0.2, math.nan), "agreement": (0.1, 0.2, 0.3), "update_norm": (1, 2, 3)}
    config = DefenseConfig(level="canary+spectrum+consensus")
    assert set(reference_values(config, benign, {"canary_rise": (9.0,)}, "round 1")) == {"agreement"}
    assert reference_values(DefenseConfig(level="live"), benign, {}, "round 1") == {}


def test_columns_are_unmeasured_that_no_reference_and_no_key_has_but_always_those_of_the_probe():
    config = DefenseConfig(level=LEVEL, canary={"max_rise": 0.4})
    known = reference_values(config, {"flatness": (0.1, 0.2, 0.3)}, {}, "round 1")
    assert unmeasured(config, known) == ["agreement", "last_step_probability"]
    assert unmeasured(config, known, threshold=0.6) == ["agreement", "last_step_probability"]
    assert unmeasured(DefenseConfig(level="shadow"), {}) == []
