"""Which token of this machine is found and sent."""

import os
import subprocess
import sys

import pytest

from cluster.ray_connection.authentication import find_token


@pytest.fixture
def home(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")  # so that what `send_token` sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_a_token_none_is_claimed(home, monkeypatch):
    assert find_token() is None
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "none"))
    assert find_token() is None


@pytest.mark.parametrize("where", ["home", "path", "variable"])
def test_a_token_is_found_wherever_ray_looks(home, monkeypatch, where):
    if where == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    else:
        file = home / ".ray" / "auth_token" if where == "home" else home / "token"
        file.parent.mkdir(exist_ok=True)
        file.write_text("secret\n")
        if where == "path":
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert find_token() == "secret"


def test_a_token_is_sent_by_a_ray_that_has_been_imported_too(tmp_path):
    """In a process of its own: what Ray was told cannot be taken back."""
    code = (
        "import ray; from cluster.ray_connection.authentication import send_token; "
        "from ray._raylet import AuthenticationMode, get_authentication_mode as mode; before = mode(); send_token(); "
        "print(before == AuthenticationMode.DISABLED, mode() == AuthenticationMode.TOKEN)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True"]
