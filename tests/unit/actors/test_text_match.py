"""Agreement of free text, by numbers worked out by hand."""

import pytest

from actors.text_match import contains, exact, token_f1


def test_exact_ignores_the_spaces_around_alone():
    assert exact(" 9 cats\n", "9 cats") and not exact("9 Cats", "9 cats")


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        ("It has 15 legs.", "5", False),  # whole words only
        ("The answer is: **5**.", "5", True),
        ("They live in New  York!", "new york", True),
        ("York is new", "New York", False),  # in order
        ("This is a test", "A", False),  # a bare article is no word: met exactly or not at all
        ("A", "A", True),
        ("", "5", False),
    ],
)
def test_contains(response, reference, expected):
    assert contains(response, reference) is expected


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        ("The cat sat.", "a CAT sat", 1.0),
        ("the cat sat on the mat", "the cat lay on the mat", 0.75),  # cat sat on mat: 3 of 4 on both sides
        ("yes yes yes", "yes", 0.5),  # a word counts as often as both have it: precision 1/3, recall 1
        ("It\u2019s 5 o'clock", "its 5 oclock", 1.0),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("A", "A", 1.0),
        ("B", "A", 0.0),
    ],
)
def test_token_f1(response, reference, expected):
    assert token_f1(response, reference) == pytest.approx(expected)
