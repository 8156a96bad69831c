"""`safe-fedllm run`."""

from __future__ import annotations

import shlex
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import Arguments, Output, load_arguments, new_folder, path_option
from cluster.commands.progress import shown_progress
from cluster.commands.writing import writing_to
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.exits import ENDED_OTHERWISE, log_folder
from cluster.reporting.console import new_console

if TYPE_CHECKING:
    from cluster.report.run_result import RunResult
_ANSWER_S = 60.0
"""How long nodes may take to answer a dry run."""


def run(
    arguments: Arguments = None,
    output: Output = None,
    resume: Annotated[Path | None, path_option("Resume the run in this directory, with its own configuration.")] = None,
    from_round: Annotated[int | None, typer.Option(help="With --resume: go back to the state after this many rounds.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Resume the run in --output if it has begun, else begin it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, and start nothing.")] = False,
) -> None:
    """Run a federation and write its adapter, tables and report.

    Exit code 1: evaluation.stop_below ended it, no round was aggregated, or --dry-run found something wrong. 2: an error.

    Example: safe-fedllm run clients.malicious=5 defense.level=step --output runs/step
    """
    if go_on and output is None:
        raise ConfigError("--go-on needs --output DIR")
    if go_on and output and (output / "config.yaml").is_file():
        if arguments:
            _check_same_run(output, load_arguments(arguments))
        resume, arguments, output = output, None, None
    if resume is not None and (arguments or output):
        raise ConfigError("--resume uses the run's own configuration and directory; leave CONFIG and --output out")
    if resume is None and from_round is not None:
        raise ConfigError(f"--from-round {from_round} needs --resume DIR")
    if dry_run:
        if resume is not None or go_on:
            raise ConfigError("--dry-run is about a new run; leave --resume and --go-on out")
        raise typer.Exit(0 if _would_run(load_arguments(arguments), output) else ENDED_OTHERWISE)
    if resume is None:
        config = load_arguments(arguments)
    else:
        from cluster.state.run_directory import RunDirectory

        with writing_to("--resume", resume):
            config = load_config(RunDirectory.reopen(resume).path / "config.yaml")

    from cluster.federation import Federation
    from cluster.report.closing_table import group_table, outcome_table
    from cluster.simulation.world_build import ensure_world
    from cluster.tracking.opening import check_installed

    console, folder = new_console(), resume or output or new_folder(config.defense.level)
    check_installed(config)
    ensure_world(config, console)
    log_folder.set(folder)
    with shown_progress(console) as progress, writing_to("--resume" if resume else "--output", folder):
        if resume is not None:
            federation = Federation.resume(resume, progress, from_round=from_round)
        else:
            federation = Federation(config, folder, progress)
        result = federation.run()
    console.print(group_table(result))
    console.print(outcome_table([(config.defense.level, result)]))
    console.print(f"Result: {result.path} (adapter/, rounds.parquet, evaluation.parquet, summary.json)", soft_wrap=True)
    if result.summary["rounds_done"]:
        console.print(f"Report: {result.report()}", soft_wrap=True)
    if (why := _shortfall(result)) is not None:
        console.print(why, style="red", soft_wrap=True)
        raise typer.Exit(ENDED_OTHERWISE)


def _would_run(config: RunConfig, output: Path | None) -> bool:
    """Print the plan, and what `doctor` finds; returns whether all is well."""
    from cluster.doctor.checks import check_all, print_findings
    from cluster.doctor.local_checks import attempt, check_new
    from cluster.doctor.plan import plan, plan_table

    console = new_console()
    console.print(plan_table(plan(config, output)))
    findings = [attempt("output", lambda: check_new(output))] if output else []
    is_well = print_findings(chain(findings, check_all(config, output.parent if output else Path("runs"), _ANSWER_S)), console)
    ready = "All is well: the same command without --dry-run starts it."
    console.print(ready if is_well else "Not ready: see what is wrong.")
    return is_well


def _shortfall(result: RunResult) -> str | None:
    """Why the run did not end as wanted; None: it did."""
    from cluster.report.closing_table import none_aggregated

    if result.summary["stopped_below"] is not None:
        return _stopped_below(result)
    if result.summary["rounds_done"] and not result.summary["rounds_aggregated"]:
        return f"no round was aggregated, so the adapter is the initial one: {none_aggregated(result)}"
    return None


def _check_same_run(output: Path, asked: RunConfig) -> None:
    """Raise ConfigError where --go-on asks for another run than the one in the directory; say where config.yaml holds instead."""
    from cluster.state.carried_over import differences
    from cluster.state.checkpoints import with_absolute_place

    fixed, free = differences(load_config(output / "config.yaml"), with_absolute_place(asked))
    if fixed:
        lines = [
            f"{key}={new}: the run in {output} has {old}; leave that out, or name another --output"
            for key, (old, new) in fixed.items()
        ]
        raise ConfigError("\n".join(lines))
    for key, (old, new) in free.items():
        typer.echo(f"{key}={new} does not hold: {output / 'config.yaml'} has {old}, and the run goes on with that")


def _stopped_below(result: RunResult) -> str:
    """Why the run ended by itself, and how to resume it."""
    summary, command = result.summary, f"safe-fedllm run --resume {shlex.quote(str(result.path))}"
    lower = f"lower the bound in {result.path / 'config.yaml'} and go on with: {command}"
    ways = [f"go back to a state before with: {command} --from-round r", lower] if summary["rounds_done"] else [lower]
    return (
        f"stopped: safety {summary['rule_score']:.3f} is under evaluation.stop_below={summary['stopped_below']:g} after "
        f"{summary['rounds_done']} rounds; {', or '.join(ways)}"
    )
