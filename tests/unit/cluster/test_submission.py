"""Submission without a cluster: the job's command, and which token is found."""

import shlex

import pytest

from cluster.submission import entrypoint, use_token


def test_the_command_survives_a_shell_and_goes_on_with_a_run_that_has_begun():
    command = entrypoint(["my config.yaml", "model.path=/a b"], "~/runs/x")
    words = ["python", "-m", "cluster", "run", "my config.yaml", "model.path=/a b", "--output", "~/runs/x", "--go-on"]
    assert shlex.split(command) == words


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
    import os

    if where == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    else:
        file = home / ".ray" / "auth_token" if where == "home" else home / "token"
        file.parent.mkdir(exist_ok=True)
        file.write_text("secret")
        if where == "path":
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
