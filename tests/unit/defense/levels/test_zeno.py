"""Level zeno: what an update does to the loss of validation data, less a price for its length, against a bound."""

import math

import pytest

from defense.levels.zeno import weigh
from tests.unit.defense.levels.builders import measured


@pytest.mark.parametrize(
    ("fall", "norm", "weight"),
    [
        (0.02, 6.0, 1.0),  # 0.02 - 0.0005 x 36 = 0.002
        (0.02, 7.0, 0.0),  # 0.02 - 0.0005 x 49 = -0.0045
        (0.0, 0.0, 1.0),
        (-0.01, 0.0, 0.0),
        (math.nan, 1.0, 0.0),
        (1.0, math.inf, 0.0),
    ],
)
def test_an_update_whose_score_is_below_the_bound_weighs_nothing(fall, norm, weight):
    assert weigh({}, [measured(validation_fall=fall, validation_norm=norm)]) == ({"a": weight}, {})


@pytest.mark.parametrize(("price", "weight"), [(0.0, 1.0), (0.001, 0.0)])
def test_price_and_bound_are_settings(price, weight):
    seen = [measured(validation_fall=-0.05, validation_norm=1.0)]
    assert weigh({}, seen, price=price, min_score=-0.05)[0] == {"a": weight}
