"""Level fltrust: the cosine to the server's own update, clipped at 0."""

import math

import pytest

from defense.levels.fltrust import weigh
from tests.unit.defense.levels.builders import measured


@pytest.mark.parametrize(
    ("cosine", "weight"), [(0.5, 0.5), (1.0, 1.0), (1.0000001, 1.0), (0.0, 0.0), (-0.5, 0.0), (math.nan, 0.0)]
)
def test_the_weight_is_the_clipped_cosine(cosine, weight):
    assert weigh({}, [measured(validation_cosine=cosine)]) == ({"a": weight}, {})
