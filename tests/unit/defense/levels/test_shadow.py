"""defense/levels/shadow.py: suppression by the flagged share to the seventh power, without memory."""

import pytest

from defense.evidence import Evidence, gather_evidence
from defense.levels import shadow


def saw(num_flagged: int, num_samples: int = 48, client_id: str = "a") -> Evidence:
    return Evidence(client_id=client_id, num_samples=num_samples, num_flagged=num_flagged, last_probability=0.5)


@pytest.mark.parametrize(
    ("num_flagged", "expected"),
    [
        (0, 1.0),
        (12, 2187 / 16384),  # r = 1/4: 3^7 / 4^7
        (16, 128 / 2187),  # r = 1/3: 2^7 / 3^7
        (24, 1 / 128),  # r = 1/2: 1 / 2^7
        (36, 1 / 16384),  # r = 3/4: 1 / 4^7
        (48, 0.0),
    ],
)
def test_the_weight_is_the_clean_share_to_the_seventh_power(num_flagged, expected):
    assert shadow.weigh({}, [saw(num_flagged)])[0] == {"a": pytest.approx(expected, rel=1e-12)}


def test_strength_is_the_exponent():
    # r = 1/4: 0.75^2 = 0.5625; strength 1 gives the clean share itself.
    assert shadow.weigh({}, [saw(12)], strength=2)[0]["a"] == pytest.approx(0.5625)
    assert shadow.weigh({}, [saw(12)], strength=1)[0]["a"] == pytest.approx(0.75)


def test_the_share_is_of_the_clients_own_samples():
    # 16 of 32 and 16 of 64: 1/2^7 and 3^7 / 4^7.
    weights, _ = shadow.weigh({}, [saw(16, 32, "a"), saw(16, 64, "b")])
    assert weights == {"a": pytest.approx(1 / 128), "b": pytest.approx(2187 / 16384)}


def test_a_withheld_step_counts_as_flagged_and_a_withheld_round_weighs_nothing():
    # One of four steps withheld: r = 1/4.
    one = gather_evidence("a", 64, {1: 0.1, 2: 0.1, 4: 0.1}, num_steps=4, batch_size=16, threshold=0.8)
    none = gather_evidence("b", 64, {}, num_steps=4, batch_size=16, threshold=0.8)
    assert shadow.weigh({}, [one, none])[0] == {"a": pytest.approx(2187 / 16384), "b": 0.0}


def test_flagged_samples_beyond_those_trained_do_not_turn_the_weight_negative():
    # Four flagged steps are 64 samples, of a client that trained 40.
    evidence = gather_evidence("a", 40, dict.fromkeys(range(1, 5), 0.9), num_steps=4, batch_size=16, threshold=0.8)
    assert shadow.weigh({}, [evidence])[0]["a"] == 0.0


def test_earlier_rounds_leave_no_trace():
    state = {}
    for num_flagged in (48, 48, 0):
        weights, state = shadow.weigh(state, [saw(num_flagged)])
    assert weights == {"a": 1.0}
    assert state == {}
