"""This machine's token for Ray clusters. Only the standard library: it is used before Ray may be imported."""

from __future__ import annotations

import os
from pathlib import Path


def find_token() -> str | None:
    """The token, from where Ray looks for it; None: there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


def use_token() -> bool:
    """Let Ray send the token that this machine has; False when there is none.

    Ray sends one only when RAY_AUTH_MODE=token, and reads that as it is imported. A head that asks for none takes it too.
    """
    if find_token() is None:
        return False
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    return True
