"""How the report shows texts that other people may have written: names, paths, errors."""

from __future__ import annotations

import re

from cluster.reporting.console import plain

_LONGEST = 600
"""Characters of such a text; more are cut, and the page says so."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#&~])")


def shown(text: object) -> str:
    """Control characters are written out, and a long text is cut."""
    whole = str(text)
    return plain(whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}… ({len(whole)} characters)")


def shown_in_markdown(text: object) -> str:
    """The same where nothing of it is markup."""
    return _MARKDOWN.sub(r"\\\1", shown(text).replace("\n", " "))
