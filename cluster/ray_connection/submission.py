"""`safe-fedllm submit`: a run as a Ray job, with its log and exit code; a job that dies is submitted again and resumes."""

from __future__ import annotations

import asyncio
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.errors import ClusterError, ConfigError
from cluster.ray_connection.authentication import GET_TOKEN
from cluster.ray_connection.own_packages import holds_a_copy, in_the_way

RUNS = "~/safe-fedllm/runs"
"""Where a job's run lies on the head node without --output; the job's own working directory does not outlive it."""
_REACH_TIMEOUT_S = 5.0
_AGENT_TIMEOUT_S = 60.0
_POLL_S = 1.0


def check_head(address: str, has_token: bool) -> bool:
    """Whether the head asks for a token. Call it first, because Ray waits long for a head that is not there.

    Raises:
        ClusterError: no head answers, or it asks for a token and this machine has none.
    """
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=_REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403) and not has_token:
            raise ClusterError(f"{address} asks for a token and this machine has none: {GET_TOKEN}") from error
        if error.code in (401, 403):
            return True
        raise ClusterError(f"{address} is no Ray head with the Jobs API: HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: no Ray head answers there ({error}); it should be the dashboard's, such as http://HEAD:8265"
        ) from error
    return False


def check_working_dir(folder: Path) -> None:
    """Check that a job would find our packages although it looks in this directory first; what is no directory here is not read.

    Raises:
        ConfigError: a module in it has the name of one of ours, and it is no copy of our repository.
    """
    if folder.is_dir() and not holds_a_copy(folder) and (file := in_the_way([str(folder)])) is not None:
        raise ConfigError(
            f"--working-dir {folder}: {file} is in the way, the job would import it in place of our package of that name; rename "
            "it, or name another directory, such as an empty one"
        )


def entrypoint(arguments: Sequence[str], output: str) -> str:
    """The command of the job; it resumes the run if an earlier job has begun it."""
    return shlex.join(["python", "-m", "cluster", "run", *arguments, "--output", output, "--go-on"])


class Submission:
    """Jobs of one run on one cluster."""

    def __init__(self, address: str, command: str, runtime_env: Mapping[str, object], write: Callable[[str], None]) -> None:
        """Connect to the head.

        Args:
            address: The head's dashboard.
            command: Of `entrypoint`.
            write: Receives the job's log as it comes.

        Raises:
            ClusterError: the head refuses the connection.
        """
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient

        self._command, self._runtime_env, self._write = command, dict(runtime_env), write
        try:
            self._client = JobSubmissionClient(address)
            self._client.list_jobs()
        except (RuntimeError, ConnectionError, RayError) as error:
            raise ClusterError(
                f"{address} refused the connection: {str(error).splitlines()[0]}. If the head asks for a token, this machine's "
                "(~/.ray/auth_token or RAY_AUTH_TOKEN) is not the head's; `ray get-auth-token` on the head prints it"
            ) from error

    def start(self) -> str:
        """Submit the job and return its id; a head that has just started may take up to a minute.

        Raises:
            ClusterError: the head does not accept the job. ConfigError: Ray does not accept the runtime environment.
        """
        until = time.monotonic() + _AGENT_TIMEOUT_S
        while True:
            try:
                return self._client.submit_job(entrypoint=self._command, runtime_env=self._runtime_env)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"--runtime-env: Ray does not take it: {str(error).strip().splitlines()[0]}") from error
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise ClusterError(f"the head did not accept the job: {str(error).strip().splitlines()[0]}") from error
                time.sleep(_POLL_S)

    def follow(self, job: str) -> bool:
        """Stream the log until the job ends; returns whether it succeeded."""
        asyncio.run(self._stream(job))
        while not (status := self._client.get_job_status(job)).is_terminal():
            time.sleep(_POLL_S)
        if status.value != "SUCCEEDED":
            self._write(f"job {job} {status.value}: {self._client.get_job_info(job).message}\n")
        return status.value == "SUCCEEDED"

    async def _stream(self, job: str) -> None:
        async for lines in self._client.tail_job_logs(job):
            self._write(lines)
