"""Level fltrust: the trust score of the paper's equation 2."""

import math

import pytest

from defense.evidence import Validated
from defense.levels.fltrust import weigh


@pytest.mark.parametrize(
    ("cosine", "weight"), [(1.0, 1.0), (0.25, 0.25), (0.0, 0.0), (-0.7, 0.0), (math.nan, 0.0), (1.0 + 1e-12, 1.0)]
)
def test_a_client_weighs_the_cosine_clipped_at_0(cosine, weight):
    assert weigh({}, [Validated(client_id="a", cosine=cosine, fall=0.0, norm=1.0)]) == ({"a": weight}, {})
