"""This machine's token for Ray clusters, and whether Ray sends it.

Ray (2.60) sends a token when RAY_AUTH_MODE=token, which it reads as it is imported. Sending one to a head that asks for none
breaks actors: their owner then refuses the head's calls. So it is sent where it is asked for, and nowhere else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def find_token() -> str | None:
    """The token, from where Ray looks for it; None: there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


def token_mode() -> str:
    """RAY_AUTH_MODE in lower case; empty: not set."""
    return os.environ.get("RAY_AUTH_MODE", "").lower()


def send_token() -> None:
    """Let Ray send this machine's token from now on, also where Ray has been imported already."""
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config

        Config.initialize("")  # as ray.init() itself does after it has set the variable
