"""probe/logistic.py: the logistic function and its inverse against scipy's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from probe.logistic import logit, sigmoid


@given(st.floats(-700, 700))
def test_sigmoid_agrees_with_scipys(x):
    assert sigmoid(x) == pytest.approx(special.expit(x), rel=1e-13, abs=0)


@given(st.floats(1e-12, 1 - 1e-12))
def test_logit_agrees_with_scipys(p):
    # ln(p / (1 - p)) near p = 1/2 is a small difference of 1 from 1, so its error is absolute.
    assert logit(p) == pytest.approx(special.logit(p), rel=1e-12, abs=1e-15)


@given(st.floats(-20, 20))
def test_logit_inverts_sigmoid(x):
    # At x = 20, 1 - p = 2e-9 keeps 2e-16 / 2e-9 = 1e-7 of relative precision.
    assert logit(sigmoid(x)) == pytest.approx(x, abs=1e-6)


@pytest.mark.parametrize(("x", "p"), [(0.0, 0.5), (math.log(3), 0.75), (-math.log(3), 0.25), (5000.0, 1.0), (-5000.0, 0.0)])
def test_sigmoid_by_hand_and_without_overflow(x, p):
    assert sigmoid(x) == pytest.approx(p, abs=1e-15)


def test_sigmoid_takes_infinity():
    assert (sigmoid(math.inf), sigmoid(-math.inf)) == (1.0, 0.0)


def test_logit_of_0_and_1_is_that_of_1e_12_from_them():
    # ln(1e-12) = -12 ln 10.
    assert logit(0.0) == logit(1e-13) == pytest.approx(-12 * math.log(10), rel=1e-9)
    assert logit(1.0) == logit(1 - 1e-13) == pytest.approx(12 * math.log(10), rel=1e-5)


@given(st.floats(0, 1), st.floats(0, 1))
def test_both_keep_the_order(p, q):
    low, high = sorted([p, q])
    assert logit(low) <= logit(high)
    assert sigmoid(logit(low)) <= sigmoid(logit(high))


def test_nan_stays_nan():
    assert math.isnan(sigmoid(math.nan))
    assert math.isnan(logit(math.nan))
