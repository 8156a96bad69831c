"""Level shadow: suppression by the flagged share to the seventh power, without memory."""

import pytest

from defense.levels import shadow
from tests.unit.defense.levels.builders import saw


@pytest.mark.parametrize(
    ("num_flagged", "samples", "expected"),
    [
        (0, 48, 1.0),
        (12, 48, 2187 / 16384),  # r = 1/4: 3^7 / 4^7
        (16, 48, 128 / 2187),  # r = 1/3: 2^7 / 3^7
        (16, 32, 1 / 128),  # r = 1/2 of the client's own samples: 1 / 2^7
        (36, 48, 1 / 16384),  # r = 3/4: 1 / 4^7
        (40, 40, 0.0),
    ],
)
def test_the_weight_is_the_clean_share_to_the_seventh_power(num_flagged, samples, expected):
    assert shadow.weigh({}, [saw(num_flagged, samples=samples)]) == ({"a": pytest.approx(expected, rel=1e-12)}, {})


def test_strength_is_the_exponent():
    # r = 1/4: 0.75^2 = 0.5625; strength 1 gives the clean share itself.
    assert shadow.weigh({}, [saw(12)], strength=2)[0]["a"] == pytest.approx(0.5625)
    assert shadow.weigh({}, [saw(12)], strength=1)[0]["a"] == pytest.approx(0.75)
