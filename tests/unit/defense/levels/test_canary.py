"""Level canary: what an update does to the server's refusals decides, and nothing that is not a number passes."""

import math

import pytest

from defense.levels.canary import weigh
from tests.unit.defense.levels.builders import measured


@pytest.mark.parametrize(
    ("rise", "weight"),
    [(-1.0, 1.0), (0.0, 1.0), (0.5, 1.0), (0.5000001, 0.0), (math.inf, 0.0), (math.nan, 0.0), (-math.inf, 1.0)],
)
def test_a_rise_above_the_bound_weighs_nothing(rise, weight):
    assert weigh({"kept": 1}, [measured(canary_rise=rise)]) == ({"a": weight}, {"kept": 1})
