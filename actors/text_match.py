"""How well a response agrees with a reference, from 0 to 1.

Words are those of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1): lower case, without punctuation and without the
articles a, an and the, split at spaces. A reference of which nothing is left, such as the choice "A", must be met exactly.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping

from actors.config import UtilityMeasure

_ARTICLES = ("a", "an", "the")


def exact(response: str, reference: str) -> bool:
    """Whether both are the same text but for spaces around them."""
    return response.strip() == reference.strip()


def contains(response: str, reference: str) -> bool:
    """Whether the reference's words stand in the response, one after the other."""
    words, wanted = _words(response), _words(reference)
    if not wanted:
        return exact(response, reference)
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))


def token_f1(response: str, reference: str) -> float:
    """Harmonic mean of the share of the response's words that the reference has, and of the reference's that the response has."""
    words, wanted = _words(response), _words(reference)
    if not wanted:
        return float(exact(response, reference))
    return 2 * (Counter(words) & Counter(wanted)).total() / (len(words) + len(wanted))


MEASURES: Mapping[UtilityMeasure, Callable[[str, str], float]] = {"exact": exact, "contains": contains, "token_f1": token_f1}


def _words(text: str) -> list[str]:
    plain = "".join(letter for letter in text.lower() if unicodedata.category(letter)[0] not in "PS")
    return [word for word in plain.split() if word not in _ARTICLES]
