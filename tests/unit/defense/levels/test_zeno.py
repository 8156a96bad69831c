"""Level zeno: what an update does to the loss of validation data, less a price for its length, against a bound."""

import math

import pytest

from defense.evidence import Validated
from defense.levels.zeno import weigh


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
    assert weigh({}, [Validated(client_id="a", cosine=math.nan, fall=fall, norm=norm)]) == ({"a": weight}, {})


def test_price_and_bound_are_parameters():
    seen = [Validated(client_id="a", cosine=math.nan, fall=-0.05, norm=1.0)]
    assert weigh({}, seen, price=0.0, min_score=-0.05)[0] == {"a": 1.0}
    assert weigh({}, seen, price=0.001, min_score=-0.05)[0] == {"a": 0.0}
