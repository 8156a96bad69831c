"""Level canary: what an update does to the server's refusals decides, and nothing that is not a number passes."""

import math

import pytest

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds
from defense.levels.canary import RISE
from tests.unit.defense.levels.builders import measured, signalled


@pytest.mark.parametrize(
    ("rise", "weight"),
    [(-1.0, 1.0), (0.0, 1.0), (0.4999, 1.0), (0.5, 0.0), (math.inf, 0.0), (math.nan, 0.0), (-math.inf, 0.0)],
)
def test_a_rise_from_the_bound_on_weighs_nothing(rise, weight):
    config = DefenseConfig(level="canary", canary={"max_rise": 0.5})
    said = levels.weigh(config, {"kept": 1}, [signalled(canary=measured(**{RISE: rise}))], level_bounds(config, {}))
    assert (said.weights, said.trust) == ({"a": weight}, {"kept": 1})
