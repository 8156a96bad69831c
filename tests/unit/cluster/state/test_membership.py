"""The clients that take part after a federation has grown and shrunk."""

from cluster.state.membership import Membership

START = Membership(known={"a": ("1",), "b": ("2",)}, active=("a", "b"))


def test_the_last_to_join_leave_and_come_back_as_themselves():
    small = START.scaled(1, {})
    assert small.active == ("a",)
    assert small.scaled(2, {}) == START
    assert small.known == START.known


def test_newcomers_are_the_last():
    grown = START.scaled(3, {"c": ("3",)})
    assert grown.active == ("a", "b", "c")
    assert grown.known["c"] == ("3",)


def test_one_that_joins_is_active_while_others_are_away():
    joined = START.scaled(1, {}).joined({"c": ("3",)})
    assert joined.active == ("a", "c")
    assert joined.scaled(3, {}).active == ("a", "b", "c")
    assert joined.scaled(4, {"d": ("4",)}).active == ("a", "b", "c", "d")
