"""The command `safe-fedllm`. Parses first and imports torch and Ray only when a command needs them."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from actors.errors import SafeFedError
from cluster.live.commands import add_live_commands
from cluster.ray_connection.tokens import find_token, send_token

if TYPE_CHECKING:
    from cluster.federation import RunResult
    from cluster.reporting.progress import Progress

app = typer.Typer(
    name="safe-fedllm",
    help="Federated LoRA fine-tuning on Ray that keeps its safety when some clients are malicious.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
world_app = typer.Typer(help="Build an embedded world: tokenizer, aligned base model, probe.", no_args_is_help=True)
app.add_typer(world_app, name="world")

probe_app = typer.Typer(help="Make a LoRA-Probe for your model: collect samples, train, evaluate.", no_args_is_help=True)
app.add_typer(probe_app, name="probe")

add_live_commands(app)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file (default: the embedded world), then overrides."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Run directory; must be new or empty.", show_default="runs/<time>-<level>")
]


@app.command()
def run(
    arguments: Arguments = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this directory, with its own configuration.")] = None,
    from_round: Annotated[int | None, typer.Option(help="With --resume: go back to the state after so many rounds.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Resume the run in --output if it has begun, else begin it.")] = False,
) -> None:
    """Run a federation and write its adapter, tables and picture; exit code 1 when evaluation.stop_below ended it.

    Example: safe-fedllm run clients.malicious=5 defense.level=step --output runs/step
    """
    from cluster.config.loading import load_config, split_arguments
    from cluster.errors import ConfigError

    output = output.expanduser() if output is not None else None
    if go_on and output is None:
        raise ConfigError("--go-on needs --output DIR")
    if go_on and (output / "config.yaml").is_file():
        resume, arguments, output = output, None, None
    if resume is not None and (arguments or output):
        raise ConfigError("--resume goes on with the run's own configuration and directory; leave CONFIG and --output out")
    if resume is None and from_round is not None:
        raise ConfigError(f"--from-round {from_round} needs --resume DIR")
    config = load_config(*split_arguments(arguments or [])) if resume is None else load_config(_config_of(resume))

    from cluster.data.worlds import ensure_world
    from cluster.federation import Federation
    from cluster.reporting.closing_table import group_table, outcome_table

    console = _console()
    ensure_world(config, console)
    with _progress(console) as progress:
        if resume is not None:
            federation = Federation.resume(resume, progress, from_round=from_round)
        else:
            folder = output or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.defense.level}"
            federation = Federation(config, folder, progress)
        result = federation.run()
    console.print(group_table(result))
    console.print(outcome_table([(config.defense.level, result)]))
    console.print(f"Result: {result.path} (adapter/, rounds.parquet, evaluation.parquet, summary.json, run.png)", soft_wrap=True)
    if result.summary["stopped_below"] is not None:
        console.print(_stopped_below(result), style="red", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(1)


def _stopped_below(result: RunResult) -> str:
    """Why the run ended by itself, and how to go on."""
    summary, command = result.summary, f"safe-fedllm run --resume {result.path}"
    lower = f"lower the bound in {result.path / 'config.yaml'} and go on with: {command}"
    ways = [f"go back to a state before with: {command} --from-round r", lower] if summary["rounds_done"] else [lower]
    return (
        f"stopped: safety {summary['rule_score']:.3f} is under evaluation.stop_below={summary['stopped_below']:g} after "
        f"{summary['rounds_done']} rounds; {', or '.join(ways)}"
    )


def _config_of(run: Path) -> Path:
    from cluster.state.run_directory import RunDirectory

    return RunDirectory.reopen(run).path / "config.yaml"


@app.command()
def submit(
    arguments: Arguments = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the head.")
    ] = "http://127.0.0.1:8265",
    output: Annotated[str | None, typer.Option("--output", "-o", help="Run directory on the head node or a shared disk.")] = None,
    working_dir: Annotated[Path, typer.Option(help="Uploaded without what .rayignore and .gitignore name.")] = Path(),
    runtime_env: Annotated[Path | None, typer.Option(help="YAML of a Ray runtime environment: pip, uv, env_vars ...")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stream the log and exit with the job's code.")] = True,
    retries: Annotated[int, typer.Option(min=0, help="Submit again so often when the job fails; the run goes on.")] = 0,
) -> None:
    """Run a federation as a Ray job: `submit CONFIG --address http://HEAD:8265`. Files it reads must be on the cluster."""
    from cluster.config.loading import load_config, read_mapping, split_arguments
    from cluster.ray_connection.submission import RUNS, Submission, check_head, entrypoint

    path, overrides = split_arguments(arguments or [])
    config, environment = load_config(path, overrides), read_mapping(runtime_env) if runtime_env else {}
    folder = output or f"{RUNS}/{config.name or time.strftime('%Y%m%d-%H%M%S') + '-' + config.defense.level}"
    if check_head(address, find_token() is not None):
        send_token()
    else:
        typer.echo(f"warning: {address} is open: whoever reaches it can run code there; see SECURITY.md for tokens", err=True)
    command = entrypoint(arguments or [], folder)
    environment = {"working_dir": str(working_dir.resolve()), **environment}
    jobs = Submission(address, command, environment, lambda text: print(text, end="", flush=True))
    for _ in range(retries + 1):
        job = jobs.start()
        typer.echo(f"job {job}, run {folder}; watch it on the cluster: safe-fedllm status --name {Path(folder).name}")
        if not wait or jobs.follow(job):
            return
    raise typer.Exit(1)


@app.command()
def compare(
    arguments: Arguments = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Goes on with the comparison that lies there.", show_default="runs/<time>-compare"),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once, which share the cluster.", show_default="as many as there is full room for"),
    ] = None,
    lean: Annotated[
        bool, typer.Option("--lean", help="Remove checkpoints, generated data and versions of the probe of each finished run.")
    ] = False,
) -> None:
    """Run a matrix of federations and close with one table; exit code 1 when a run failed.

    Axes are comma-separated: defenses=none,shadow,live+canary,krum,shadow:median rules=krum,bulyan attacks=alie,ipm
    malicious=0,3 worlds=0,1 seeds=0-9. Other KEY=VALUE hold for every run. Among the defenses are two to compare with: oracle
    (attackers never take part) and realignment (the server repairs the final adapter; also LEVEL+realignment).
    """
    from cluster.comparison.axes import plan_cells, split_axes
    from cluster.config.loading import EMBEDDED, read_mapping, split_arguments, with_overrides

    axes, rest = split_axes(arguments or [])
    path, overrides = split_arguments(rest)
    cells = plan_cells(with_overrides(read_mapping(path or EMBEDDED), overrides), axes)
    folder = output.expanduser() if output else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-compare"

    from cluster.comparison.matrix import run_comparison

    outcomes = run_comparison(cells, folder, _console(), _progress, parallel, lean=lean)
    raise typer.Exit(1 if any(outcome.error is not None for outcome in outcomes) else 0)


@world_app.command("build")
def build(
    arguments: Arguments = None, output: Output = None, part: Annotated[str, typer.Option(help="all, base or probe")] = "all"
) -> None:
    """Build a world from nothing: `safe-fedllm world build world.seed=1`. Takes a few minutes on two cores."""
    from cluster.config.loading import load_config, split_arguments

    config = load_config(*split_arguments(arguments or []))

    from cluster.data.worlds import build_world

    build_world(config, output, part, _console())


@probe_app.command("collect")
def collect(
    arguments: Arguments = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Sample store; one that exists is gone on with.")] = Path(
        "probes/store"
    ),
) -> None:
    """Train labelled reference clients on Ray and write a sample per local step into a store.

    Example: safe-fedllm probe collect my.yaml collect.benign_path=good.jsonl collect.malicious_path=bad.jsonl
    """
    from cluster.config.loading import load_config, split_arguments

    config = load_config(*split_arguments(arguments or []))

    from cluster.data.worlds import ensure_world
    from cluster.probes.collection import collect_samples
    from cluster.probes.tables import store_table
    from cluster.reporting.progress import CollectionLines

    console = _console()
    ensure_world(config, console)
    store = collect_samples(config, output, CollectionLines(lambda line: print(line, flush=True)))
    console.print(store_table(store))
    console.print(f"Next: safe-fedllm probe train {output} --output probes/mine", soft_wrap=True)


@probe_app.command("merge")
def merge(
    store: Annotated[Path, typer.Argument(help="The sample store that takes the others in.")],
    others: Annotated[list[Path], typer.Argument(help="Stores of the same model, LoRA and recipe.")],
) -> None:
    """Copy the reference clients of other stores into one."""
    from cluster.probes.probing import merge_stores
    from cluster.probes.tables import store_table

    _console().print(store_table(merge_stores(store, others)))


@probe_app.command("train")
def train(
    store: Annotated[Path, typer.Argument(help="Sample store of `probe collect`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as probe.classifier=xgboost.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new probe.")] = Path("probes/mine"),
) -> None:
    """Fit, calibrate and save a probe. Settings are those of the collection, then the overrides."""
    from cluster.probes.probing import train_from_store
    from cluster.probes.tables import training_table

    console = _console()
    console.print(training_table(train_from_store(store, overrides or [], output).meta))
    console.print(f"Probe: {output} (use it with probe.path={output})", soft_wrap=True)


@probe_app.command("evaluate")
def evaluate(
    probe: Annotated[Path, typer.Argument(help="Folder of a probe.")],
    store: Annotated[Path, typer.Argument(help="Sample store; families and clients of the training are left out.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Report; evaluation.png is written beside it.")] = Path(
        "report.json"
    ),
) -> None:
    """Measure a probe on families and clients that its training never saw."""
    from cluster.probes.probing import evaluate_probe
    from cluster.probes.tables import breakdown_table, figures_table

    console, report = _console(), evaluate_probe(probe, store, output).report
    console.print(figures_table(report))
    for name in ("step", "family", "state"):
        console.print(breakdown_table(report, name))
    console.print(f"Report: {output}, {output.parent / 'evaluation.png'}", soft_wrap=True)


@app.command()
def doctor(
    arguments: Arguments = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, HOST:PORT or `auto`; overrides cluster.address.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run directory that would be made.", show_default="runs/...")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the nodes may take to answer.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {check, ok, detail}.")] = False,
) -> None:
    """Check this machine and every node of a cluster: what a run with this configuration would miss, and what to do."""
    from cluster.config.loading import load_config, split_arguments

    path, overrides = split_arguments(arguments or [])
    config = load_config(path, [*overrides, *([f"cluster.address={address}"] if address else [])])

    from cluster.doctor.diagnosis import diagnose
    from cluster.doctor.printing import print_findings

    runs = output.expanduser().parent if output else Path("runs")
    raise typer.Exit(0 if print_findings(diagnose(config, runs, timeout), None if as_json else _console()) else 1)


@app.command()
def keys() -> None:
    """List every configuration key with its default."""
    from cluster.config.loading import describe_keys

    for line in describe_keys():
        typer.echo(line)


def _console() -> Console:
    """The terminal as it is; a pipe or a log file gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


@contextmanager
def _progress(console: Console, label: str = "") -> Iterator[Progress]:
    from cluster.reporting.progress import LiveProgress, PlainProgress

    progress = LiveProgress(console, label) if console.is_terminal else PlainProgress(lambda line: print(line, flush=True), label)
    try:
        yield progress
    finally:
        progress.close()


def main() -> None:
    """Entry point: errors made for people are printed without a traceback, and end with exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except SafeFedError as error:
        Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
