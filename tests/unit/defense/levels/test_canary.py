"""Level canary: what an update does to the server's refusals decides, and nothing that is not a number passes."""

import math

import pytest

from defense.evidence import Rise
from defense.levels.canary import weigh


@pytest.mark.parametrize(
    ("rise", "weight"),
    [(-1.0, 1.0), (0.0, 1.0), (0.5, 1.0), (0.5000001, 0.0), (math.inf, 0.0), (math.nan, 0.0), (-math.inf, 1.0)],
)
def test_a_rise_above_the_bound_weighs_nothing(rise, weight):
    assert weigh({}, [Rise(client_id="a", rise=rise)]) == ({"a": weight}, {})


def test_the_bound_is_a_parameter():
    assert weigh({"kept": 1}, [Rise(client_id="a", rise=0.3)], max_rise=0.5) == ({"a": 1.0}, {"kept": 1})
