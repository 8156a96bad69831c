"""`safe-fedllm submit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, load_arguments, new_folder, path_option
from cluster.commands.progress import print_line
from cluster.config.loading import read_mapping
from cluster.ray_connection.authentication import find_token, send_token
from cluster.reporting.console import plain


def submit(
    arguments: Arguments = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the head.")
    ] = "http://127.0.0.1:8265",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Run directory on the head node or a shared disk.", metavar="PATH")
    ] = None,
    working_dir: Annotated[Path, path_option("Uploaded, without the files that .rayignore and .gitignore name.")] = Path(),
    runtime_env: Annotated[Path | None, path_option("YAML of a Ray runtime environment: pip, uv, env_vars ...")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stream the log and exit with the job's code.")] = True,
    retries: Annotated[int, typer.Option(min=0, help="How often to submit again when the job fails; the run resumes.")] = 0,
) -> None:
    """Run a federation as a Ray job: `submit CONFIG --address http://HEAD:8265`. Files it reads must be on the cluster."""
    from cluster.ray_connection.submission import RUNS, Submission, check_head, check_working_dir, entrypoint

    config, environment = load_arguments(arguments), read_mapping(runtime_env) if runtime_env else {}
    check_working_dir(Path(str(environment.get("working_dir", working_dir))))
    folder = output or f"{RUNS}/{config.name or new_folder(config.defense.level).name}"
    if check_head(address, find_token() is not None):
        send_token()
    else:
        warning = f"warning: {address} is open: anyone who reaches it can run code there; see SECURITY.md for tokens"
        print(plain(warning), file=sys.stderr, flush=True)
    command = entrypoint(arguments or [], folder)
    environment = {"working_dir": str(working_dir.resolve()), **environment}
    jobs = Submission(address, command, environment, lambda text: print(plain(text), end="", flush=True))
    for _ in range(retries + 1):
        job = jobs.start()
        print_line(f"job {job}, run {folder}; watch it on the cluster: safe-fedllm status --name {Path(folder).name}")
        if not wait or jobs.follow(job):
            return
    raise typer.Exit(1)
