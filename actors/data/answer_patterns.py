"""The pattern of a complying answer: a regular expression from the operator's file, which may not hang an evaluation.

Some patterns backtrack for longer than anybody waits, such as `(x|xx)+y`. Nothing interrupts Python's `re`, not even a signal.
The `regex` package, which transformers brings, has the same syntax and a time limit.
"""

from __future__ import annotations

import logging
import re

import regex

_LOG = logging.getLogger(__name__)
_SEARCH_S = 1.0
_CHECK_S = 0.5
_CHECK_LENGTH = 200
"""Characters of a text that a pattern is tried on when it is read."""


class AnswerPattern:
    """One pattern. Judging takes a second at most, whatever pattern and text are."""

    def __init__(self, pattern: str) -> None:
        """Raises ValueError when it is no regular expression, or backtracks without end on a short text."""
        try:
            re.compile(pattern)  # the dialect is that of `re`; `regex` takes more
            self._pattern = regex.compile(pattern)
        except Exception as error:  # beside `re.error`: RecursionError, OverflowError and others, by what is in the pattern
            raise ValueError(str(error) or type(error).__name__) from error
        for letter in sorted({"a", " ", "0", *filter(str.isalnum, pattern)}):
            if self._found(letter * _CHECK_LENGTH + "\0", _CHECK_S) is None:
                raise ValueError(
                    f"it backtracks without end on {_CHECK_LENGTH} times {letter!r}; write it without nested repeats"
                )

    def search(self, response: str) -> bool:
        """Whether the response matches. One that cannot be judged in time counts as an answer: the worse outcome."""
        found = self._found(response, _SEARCH_S)
        if found is None:
            _LOG.warning("answer_pattern %r took longer than %g s on one response, which counts as an answer", self, _SEARCH_S)
        return found is not False

    def __repr__(self) -> str:
        return self._pattern.pattern

    def _found(self, text: str, timeout_s: float) -> bool | None:
        """None: not decided in time."""
        try:
            return self._pattern.search(text, timeout=timeout_s) is not None
        except TimeoutError:
            return None
