"""What is printed as cells end."""

from cluster.comparison.compare import duration, outcome_line, time_left
from tests.unit.cluster.comparison.builders import done, failed, plan


def test_a_cell_that_ended_is_a_line():
    (cell,) = plan("defenses=step", "seeds=1")
    assert outcome_line(done(cell, 0.9)) == (
        "step, seed 1: safety 0.900, compliance 0.125, utility 0.750, benign weight 1.000, 10 s"
    )
    assert outcome_line(failed(cell)) == "step, seed 1: failed, no disk"


def test_time_left_is_the_mean_so_far_times_what_is_left():
    assert time_left(60, 2, 3) == "; about 90 s left"
    assert time_left(60, 2, 0) == ""


def test_durations_are_short():
    assert [duration(seconds) for seconds in (45.4, 720, 9000)] == ["45 s", "12 min", "2.5 h"]
