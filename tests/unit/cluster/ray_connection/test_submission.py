"""Submission without a cluster: the job's command."""

import shlex

from cluster.ray_connection.submission import entrypoint


def test_the_command_survives_a_shell_and_goes_on_with_a_run_that_has_begun():
    command = entrypoint(["my config.yaml", "model.path=/a b"], "~/runs/x")
    words = ["python", "-m", "cluster", "run", "my config.yaml", "model.path=/a b", "--output", "~/runs/x", "--go-on"]
    assert shlex.split(command) == words
