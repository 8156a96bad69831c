"""defense/levels/spectrum.py: who sends noise."""

import math

import pytest

from defense.evidence import Spectrum
from defense.levels import spectrum


@pytest.mark.parametrize(("flatness", "weight"), [(0.0, 1.0), (0.9, 1.0), (0.90001, 0.0), (1.0, 0.0), (math.nan, 0.0)])
def test_an_update_flatter_than_the_bound_weighs_nothing(flatness, weight):
    assert spectrum.weigh({}, [Spectrum(client_id="a", flatness=flatness)]) == ({"a": weight}, {})


def test_the_bound_is_a_parameter():
    assert spectrum.weigh({}, [Spectrum(client_id="a", flatness=0.95)], max_flatness=0.95)[0] == {"a": 1.0}
