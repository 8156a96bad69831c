"""Patterns that match, that are none, and that would backtrack for ever: nothing takes longer than its time."""

import time

import pytest

from actors.data import answer_patterns
from actors.data.answer_patterns import AnswerPattern


def test_a_pattern_matches_as_re_does():
    pattern = AnswerPattern(r"(?i)the code is \d{3}\b")
    assert pattern.search("Sure, the CODE is 731.")
    assert not pattern.search("the code is 73.")


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<x", "[", "(" * 5_000, "a{99999999999999999999}", r"\p{L}", "(?R)"])
def test_what_is_no_regular_expression_is_refused(pattern):
    with pytest.raises(ValueError, match=r"\S"):
        AnswerPattern(pattern)


@pytest.mark.parametrize("pattern", [r"(x|xx)+y", r"^(\w|\w\w)*$", r"(a?){60}a{60}!|(0|00)*!"])
def test_one_that_backtracks_without_end_is_refused_within_seconds(pattern):
    began = time.monotonic()
    with pytest.raises(ValueError, match="it backtracks without end on 200 times"):
        AnswerPattern(pattern)
    assert time.monotonic() - began < 10


def test_a_response_that_cannot_be_judged_in_time_counts_as_an_answer(monkeypatch, caplog):
    monkeypatch.setattr(answer_patterns, "_SEARCH_S", 0.2)
    pattern = AnswerPattern(r"(\(|\(\()+b")  # the check tries letters and digits
    began = time.monotonic()
    assert pattern.search("(" * 500)
    assert time.monotonic() - began < 5
    assert "took longer than 0.2 s on one response" in caplog.text
    assert not pattern.search("(" * 5)
