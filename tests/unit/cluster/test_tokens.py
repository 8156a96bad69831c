"""Which token of this machine is found and sent."""

import os

import pytest

from cluster.tokens import find_token, use_token


@pytest.fixture
def home(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")  # so that what `use_token` sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_a_token_none_is_claimed(home, monkeypatch):
    assert not use_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "none"))
    assert not use_token()


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
    assert use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
