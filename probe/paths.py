"""Paths as people write them in a configuration: `~` is the home directory, and a URI holds no credentials. No torch here."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator

_LOGIN = re.compile(r"://[^@]*:[^@]*@")
_SECRET_OPTION = re.compile(r"[?&][^=&]*(?:secret|password|token|key|signature)[^=&]*=", re.IGNORECASE)


def _usable(path: str) -> str:
    if "://" in path and (_LOGIN.search(path) or _SECRET_OPTION.search(path)):
        raise ValueError(
            "the URI holds credentials, which config.yaml, logs and other people would see; leave them out: pyarrow reads "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role, and the like for other stores"
        )
    return os.path.expanduser(path)  # noqa: PTH111 - Path would take a slash out of a URI


UserPath = Annotated[str, AfterValidator(_usable)]
"""A path, hub name or URI; the message of its error never holds the value."""
