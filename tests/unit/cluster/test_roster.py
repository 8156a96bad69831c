"""Who takes part after a federation has grown and shrunk."""

from cluster.roster import Roster

START = Roster(known={"a": ("1",), "b": ("2",)}, num_active=2)


def test_the_last_to_join_leave_and_come_back_as_themselves():
    small = START.scaled(1, {})
    assert small.active == ["a"]
    assert small.scaled(2, {}).active == ["a", "b"]
    assert small.known == START.known


def test_newcomers_are_the_last():
    grown = START.scaled(3, {"c": ("3",)})
    assert grown.active == ["a", "b", "c"]
    assert grown.known["c"] == ("3",)
