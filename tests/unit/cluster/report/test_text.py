"""Texts that other people may have written."""

import pytest

from cluster.report.text import shown, shown_in_markdown


@pytest.mark.parametrize(
    ("text", "as_shown"), [("a\x1b[31mb\x00", "a\\x1b[31mb\\x00"), ("x" * 601, "x" * 600 + "… (601 characters)"), (7, "7")]
)
def test_control_characters_are_written_out_and_long_texts_cut(text, as_shown):
    assert shown(text) == as_shown


def test_nothing_of_it_is_markdown():
    assert shown_in_markdown("[a](b)\n*c*") == r"\[a\](b) \*c\*"
