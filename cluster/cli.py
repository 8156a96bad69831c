"""The command `safe-fedllm`. Reads its arguments first, and imports torch and Ray only when a command needs them."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typer.models import OptionInfo

from actors.errors import SafeFedError
from cluster.config.loading import EMBEDDED, describe_keys, load_config, read_mapping, split_arguments, with_overrides
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.interruption import how_to_go_on, unwinding_on_signals
from cluster.ray_connection.authentication import find_token, send_token

if TYPE_CHECKING:
    from cluster.live.control import LiveRun
    from cluster.reporting.callback import RunCallback
    from cluster.state.run_directory import RunResult

app = typer.Typer(
    name="safe-fedllm",
    help="Federated LoRA fine-tuning on Ray that keeps its safety when some clients are malicious.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
world_app = typer.Typer(help="Build an embedded world: tokenizer, aligned base model, probes.", no_args_is_help=True)
app.add_typer(world_app, name="world")

probe_app = typer.Typer(help="Make a LoRA-Probe for your model: collect samples, train, evaluate.", no_args_is_help=True)
app.add_typer(probe_app, name="probe")

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file (default: the embedded world), then overrides."),
]


def _output(text: str, default: str | bool = True) -> OptionInfo:
    """The option `--output` with this help; `default` as the help shows it, True: as it is."""
    return typer.Option("--output", "-o", help=text, show_default=default)


Output = Annotated[Path | None, _output("Run directory; must be new or empty.", "runs/<time>-<level>")]
Name = Annotated[str | None, typer.Option(help="The run; needed only when several are live.")]
Address = Annotated[str, typer.Option(help="Ray cluster, HOST:PORT; `auto` is RAY_ADDRESS or the one on this machine.")]
_NEXT = "takes effect when the round under way is committed"


@app.command()
def run(
    arguments: Arguments = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(help="Resume the run in this directory, with its own configuration.")] = None,
    from_round: Annotated[int | None, typer.Option(help="With --resume: go back to the state after this many rounds.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Resume the run in --output if it has begun, else begin it.")] = False,
) -> None:
    """Run a federation and write its adapter, tables and picture; exit code 1 when evaluation.stop_below ended it.

    Example: safe-fedllm run clients.malicious=5 defense.level=step --output runs/step
    """
    output = output and output.expanduser()
    if go_on and output is None:
        raise ConfigError("--go-on needs --output DIR")
    if go_on and output and (output / "config.yaml").is_file():
        resume, arguments, output = output, None, None
    if resume is not None and (arguments or output):
        raise ConfigError("--resume uses the run's own configuration and directory; leave CONFIG and --output out")
    if resume is None and from_round is not None:
        raise ConfigError(f"--from-round {from_round} needs --resume DIR")
    if resume is None:
        config = _load(arguments)
    else:
        from cluster.state.run_directory import RunDirectory

        config = load_config(RunDirectory.reopen(resume).path / "config.yaml")

    from cluster.federation import Federation
    from cluster.reporting.closing_table import group_table, outcome_table
    from cluster.simulation.world_build import ensure_world

    console = _console()
    ensure_world(config, console)
    with _progress(console) as progress:
        if resume is not None:
            federation = Federation.resume(resume, progress, from_round=from_round)
        else:
            federation = Federation(config, output or _new_folder(config.defense.level), progress)
        with unwinding_on_signals(lambda: typer.echo(how_to_go_on(federation.path), err=True)):
            result = federation.run()
    console.print(group_table(result))
    console.print(outcome_table([(config.defense.level, result)]))
    console.print(f"Result: {result.path} (adapter/, rounds.parquet, evaluation.parquet, summary.json, run.png)", soft_wrap=True)
    if result.summary["stopped_below"] is not None:
        console.print(_stopped_below(result), style="red", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(1)


def _stopped_below(result: RunResult) -> str:
    """Why the run ended by itself, and how to resume it."""
    summary, command = result.summary, f"safe-fedllm run --resume {result.path}"
    lower = f"lower the bound in {result.path / 'config.yaml'} and go on with: {command}"
    ways = [f"go back to a state before with: {command} --from-round r", lower] if summary["rounds_done"] else [lower]
    return (
        f"stopped: safety {summary['rule_score']:.3f} is under evaluation.stop_below={summary['stopped_below']:g} after "
        f"{summary['rounds_done']} rounds; {', or '.join(ways)}"
    )


@app.command()
def submit(
    arguments: Arguments = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the head.")
    ] = "http://127.0.0.1:8265",
    output: Annotated[str | None, _output("Run directory on the head node or a shared disk.")] = None,
    working_dir: Annotated[Path, typer.Option(help="Uploaded, without the files that .rayignore and .gitignore name.")] = Path(),
    runtime_env: Annotated[Path | None, typer.Option(help="YAML of a Ray runtime environment: pip, uv, env_vars ...")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stream the log and exit with the job's code.")] = True,
    retries: Annotated[int, typer.Option(min=0, help="How often to submit again when the job fails; the run resumes.")] = 0,
) -> None:
    """Run a federation as a Ray job: `submit CONFIG --address http://HEAD:8265`. Files it reads must be on the cluster."""
    from cluster.ray_connection.submission import RUNS, Submission, check_head, entrypoint

    config, environment = _load(arguments), read_mapping(runtime_env) if runtime_env else {}
    folder = output or f"{RUNS}/{config.name or _new_folder(config.defense.level).name}"
    if check_head(address, find_token() is not None):
        send_token()
    else:
        typer.echo(f"warning: {address} is open: anyone who reaches it can run code there; see SECURITY.md for tokens", err=True)
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
    output: Annotated[Path | None, _output("Continues the comparison in this directory.", "runs/<time>-compare")] = None,
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
    from cluster.comparison.cells import plan_cells, split_axes

    axes, rest = split_axes(arguments or [])
    path, overrides = split_arguments(rest)
    cells = plan_cells(with_overrides(read_mapping(path or EMBEDDED), overrides), axes)

    from cluster.comparison.compare import run_comparison

    folder = output.expanduser() if output else _new_folder("compare")
    outcomes = run_comparison(cells, folder, _console(), _progress, parallel, lean=lean)
    raise typer.Exit(1 if any(outcome.error is not None for outcome in outcomes) else 0)


@app.command()
def status(name: Name = None, address: Address = "auto", as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show the round, clients by state, last weights, probe version and rates of a live run."""
    from cluster.reporting.status import status_table

    with _live(name, address) as live:
        shown = live.status()
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        _console().print(status_table(shown))


@app.command()
def scale(clients: Annotated[int, typer.Argument(min=1)], name: Name = None, address: Address = "auto") -> None:
    """Let this many clients take part; the last that joined leave first, and keep their trust."""
    _order(name, address, lambda live: live.scale(clients), f"{clients} clients, {_NEXT}")


@app.command()
def pause(name: Name = None, address: Address = "auto") -> None:
    """Start no further round until `resume`."""
    _order(name, address, lambda live: live.pause(), f"pause {_NEXT}")


@app.command()
def resume(name: Name = None, address: Address = "auto") -> None:
    """Go on after `pause`."""
    _order(name, address, lambda live: live.resume(), "goes on")


@app.command()
def stop(name: Name = None, address: Address = "auto") -> None:
    """End the run after the round under way; its results are written, and `run --resume DIR` goes on later."""
    _order(name, address, lambda live: live.stop(), f"stop {_NEXT}")


@app.command("set")
def set_(
    change: Annotated[str, typer.Argument(metavar="KEY=VALUE", help="Such as defense.skip_below=0.3")],
    name: Name = None,
    address: Address = "auto",
) -> None:
    """Change a parameter of the defense of a live run."""
    _order(name, address, lambda live: live.set(change), f"{change} {_NEXT}")


@world_app.command("build")
def build(
    arguments: Arguments = None, output: Output = None, part: Annotated[str, typer.Option(help="all, base or probe")] = "all"
) -> None:
    """Build a world from scratch: `safe-fedllm world build world.seed=1`. Takes a few minutes on two cores."""
    from cluster.simulation.world_build import build_world

    build_world(_load(arguments), output, part, _console())


@probe_app.command("collect")
def collect(
    arguments: Arguments = None,
    output: Annotated[Path, _output("Sample store; an existing store is completed.")] = Path("probes/store"),
) -> None:
    """Train labelled reference clients on Ray and write a sample per local step into a store.

    Example: safe-fedllm probe collect my.yaml collect.benign_path=good.jsonl collect.malicious_path=bad.jsonl
    """
    config = _load(arguments)

    from cluster.probes.collect import collect_samples
    from cluster.probes.tables import store_table
    from cluster.reporting.progress import CollectionLines
    from cluster.simulation.world_build import ensure_world

    console = _console()
    ensure_world(config, console)
    store = collect_samples(config, output, CollectionLines(lambda line: print(line, flush=True)))
    console.print(store_table(store))
    console.print(f"Next: safe-fedllm probe train {output} --output probes/mine", soft_wrap=True)


@probe_app.command("merge")
def merge(
    store: Annotated[Path, typer.Argument(help="The sample store that receives the others.")],
    others: Annotated[list[Path], typer.Argument(help="Stores of the same model, LoRA and recipe.")],
) -> None:
    """Copy the reference clients of other stores into one."""
    from cluster.probes.tables import store_table
    from cluster.probes.train import merge_stores

    _console().print(store_table(merge_stores(store, others)))


@probe_app.command("train")
def train(
    store: Annotated[Path, typer.Argument(help="Sample store of `probe collect`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as probe.classifier=xgboost.")
    ] = None,
    output: Annotated[Path, _output("Folder of the new probe.")] = Path("probes/mine"),
) -> None:
    """Fit, calibrate and save a probe. Settings are those of the collection, changed by the overrides."""
    from cluster.probes.tables import training_table
    from cluster.probes.train import train_from_store

    console = _console()
    console.print(training_table(train_from_store(store, overrides or [], output).meta))
    console.print(f"Probe: {output} (use it with probe.path={output})", soft_wrap=True)


@probe_app.command("evaluate")
def evaluate(
    probe: Annotated[Path, typer.Argument(help="Folder of a probe.")],
    store: Annotated[Path, typer.Argument(help="Sample store; families and clients of the training are left out.")],
    output: Annotated[Path, _output("Report; evaluation.png is written beside it.")] = Path("report.json"),
) -> None:
    """Measure a probe on families and clients that its training never saw."""
    from cluster.probes.evaluate import evaluate_probe
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
    output: Annotated[Path | None, _output("Run directory that would be made.", "runs/...")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the nodes may take to answer.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {check, ok, detail}.")] = False,
) -> None:
    """Check this machine and every node of a cluster: what a run with this configuration would miss, and what to do."""
    config = _load(arguments, [f"cluster.address={address}"] if address else [])

    from cluster.doctor.checks import check_all, print_findings

    runs = output.expanduser().parent if output else Path("runs")
    raise typer.Exit(0 if print_findings(check_all(config, runs, timeout), None if as_json else _console()) else 1)


@app.command()
def keys() -> None:
    """List every configuration key with its default."""
    for line in describe_keys():
        typer.echo(line)


def _load(arguments: list[str] | None, more: Sequence[str] = ()) -> RunConfig:
    path, overrides = split_arguments(arguments or [])
    return load_config(path, [*overrides, *more])


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def _console() -> Console:
    """The terminal as it is; a pipe or a log file gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


@contextmanager
def _live(name: str | None, address: str) -> Iterator[LiveRun]:
    from cluster.live.control import LiveRun
    from cluster.ray_connection.session import ray_session

    with ray_session(address):
        yield LiveRun(name)


def _order(name: str | None, address: str, give: Callable[[LiveRun], None], text: str) -> None:
    with _live(name, address) as live:
        give(live)
        typer.echo(f"{live.name}: {text}")


@contextmanager
def _progress(console: Console, label: str = "") -> Iterator[RunCallback]:
    from cluster.reporting.progress import ProgressBars, ProgressLines

    progress = ProgressBars(console, label) if console.is_terminal else ProgressLines(lambda line: print(line, flush=True), label)
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
        with unwinding_on_signals():
            app()
    except SafeFedError as error:
        Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
