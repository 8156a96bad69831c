"""The command `safe-fedllm`. Reads its arguments first, and imports torch and Ray only when a command needs them."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import ArgumentInfo, OptionInfo

from cluster.config.loading import EMBEDDED, describe_keys, load_config, read_mapping, split_arguments, validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.exits import ENDED_OTHERWISE, ERROR, INTERRUPTED, has_begun, log_folder, report, report_interrupt, resume_command
from cluster.interruption import unwinding_on_signals
from cluster.ray_connection.authentication import find_token, send_token
from cluster.reporting.console import PlainFormatter, new_console, plain

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.live.control import LiveRun
    from cluster.reporting.callback import RunCallback
    from cluster.state.run_directory import RunResult

_VERBOSE = "--verbose"
Verbose = Annotated[bool, typer.Option(_VERBOSE, help="Show the traceback of an error.")]


class _App(typer.Typer):
    """A group of commands. Each takes `--verbose`, which `main` reads, before its name or after it."""

    def __init__(self, text: str) -> None:
        super().__init__(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
        self.callback(help=text)(_take_verbose)

    def command(self, *arguments: Any, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        register = super().command(*arguments, **options)

        def add(function: Callable[..., None]) -> Callable[..., None]:
            @wraps(function)
            def with_verbose(*, verbose: bool, **values: Any) -> None:  # noqa: ARG001 - `main` reads it
                function(**values)

            own = inspect.signature(function, eval_str=True)
            parameter = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
            with_verbose.__signature__ = own.replace(parameters=[*own.parameters.values(), parameter])  # pyright: ignore[reportAttributeAccessIssue]
            with_verbose.__annotations__ = {**function.__annotations__, "verbose": Verbose}
            register(with_verbose)
            return function

        return add


def _take_verbose(verbose: Verbose = False) -> None:
    """`main` reads it."""


app = _App("Federated LoRA fine-tuning on Ray that keeps its safety when some clients are malicious.")
world_app = _App("Build an embedded world: tokenizer, aligned base model, probes.")
app.add_typer(world_app, name="world")

probe_app = _App("Make a LoRA-Probe for your model: collect samples, train, evaluate.")
app.add_typer(probe_app, name="probe")

data_app = _App("Look at data before a run, or write starter data for the server.")
app.add_typer(data_app, name="data")

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file (default: the embedded world), then overrides."),
]


def _path(text: str) -> Path:
    """A path as it is typed; `~` is the home directory also where the shell leaves it."""
    return Path(text).expanduser()


def _output(text: str, default: str | bool = True) -> OptionInfo:
    """The option `--output` with this help; `default` as the help shows it, True: as it is."""
    return typer.Option("--output", "-o", help=text, show_default=default, parser=_path, metavar="PATH")


def _store(text: str) -> ArgumentInfo:
    """An argument that takes a path."""
    return typer.Argument(help=text, parser=_path)


def _folder(text: str) -> OptionInfo:
    """An option that takes a path."""
    return typer.Option(help=text, parser=_path, metavar="PATH")


Output = Annotated[Path | None, _output("Run directory; must be new or empty.", "runs/<time>-<level>")]
Name = Annotated[str | None, typer.Option(help="The run; needed only when several are live.")]
Address = Annotated[str, typer.Option(help="Ray cluster, HOST:PORT; `auto` is RAY_ADDRESS or the one on this machine.")]
_OTHER_PLACE = "name a place with room that this user can write to"
_NEXT = "takes effect when the round under way is committed"


@app.command()
def run(
    arguments: Arguments = None,
    output: Output = None,
    resume: Annotated[Path | None, _folder("Resume the run in this directory, with its own configuration.")] = None,
    from_round: Annotated[int | None, typer.Option(help="With --resume: go back to the state after this many rounds.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Resume the run in --output if it has begun, else begin it.")] = False,
) -> None:
    """Run a federation and write its adapter, tables and picture.

    Exit code 1: evaluation.stop_below ended it, or no round was aggregated. 2: an error.

    Example: safe-fedllm run clients.malicious=5 defense.level=step --output runs/step
    """
    if go_on and output is None:
        raise ConfigError("--go-on needs --output DIR")
    if go_on and output and (output / "config.yaml").is_file():
        if arguments:
            _check_same_run(output, _load(arguments))
        resume, arguments, output = output, None, None
    if resume is not None and (arguments or output):
        raise ConfigError("--resume uses the run's own configuration and directory; leave CONFIG and --output out")
    if resume is None and from_round is not None:
        raise ConfigError(f"--from-round {from_round} needs --resume DIR")
    if resume is None:
        config = _load(arguments)
    else:
        from cluster.state.run_directory import RunDirectory

        with _writing("--resume", resume):
            config = load_config(RunDirectory.reopen(resume).path / "config.yaml")

    from cluster.federation import Federation
    from cluster.reporting.closing_table import group_table, outcome_table
    from cluster.simulation.world_build import ensure_world

    console, folder = new_console(), resume or output or _new_folder(config.defense.level)
    ensure_world(config, console)
    log_folder.set(folder)
    with _progress(console) as progress, _writing("--resume" if resume else "--output", folder):
        if resume is not None:
            federation = Federation.resume(resume, progress, from_round=from_round)
        else:
            federation = Federation(config, folder, progress)
        result = federation.run()
    console.print(group_table(result))
    console.print(outcome_table([(config.defense.level, result)]))
    console.print(f"Result: {result.path} (adapter/, rounds.parquet, evaluation.parquet, summary.json, run.png)", soft_wrap=True)
    if (why := _shortfall(result)) is not None:
        console.print(why, style="red", soft_wrap=True)
        raise typer.Exit(ENDED_OTHERWISE)


def _shortfall(result: RunResult) -> str | None:
    """Why the run did not end as wanted; None: it did."""
    from cluster.reporting.closing_table import none_aggregated

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


@app.command()
def submit(
    arguments: Arguments = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the head.")
    ] = "http://127.0.0.1:8265",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Run directory on the head node or a shared disk.", metavar="PATH")
    ] = None,
    working_dir: Annotated[Path, _folder("Uploaded, without the files that .rayignore and .gitignore name.")] = Path(),
    runtime_env: Annotated[Path | None, _folder("YAML of a Ray runtime environment: pip, uv, env_vars ...")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stream the log and exit with the job's code.")] = True,
    retries: Annotated[int, typer.Option(min=0, help="How often to submit again when the job fails; the run resumes.")] = 0,
) -> None:
    """Run a federation as a Ray job: `submit CONFIG --address http://HEAD:8265`. Files it reads must be on the cluster."""
    from cluster.ray_connection.submission import RUNS, Submission, check_head, check_working_dir, entrypoint

    config, environment = _load(arguments), read_mapping(runtime_env) if runtime_env else {}
    check_working_dir(Path(str(environment.get("working_dir", working_dir))))
    folder = output or f"{RUNS}/{config.name or _new_folder(config.defense.level).name}"
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
        _print_line(f"job {job}, run {folder}; watch it on the cluster: safe-fedllm status --name {Path(folder).name}")
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

    folder = output or _new_folder("compare")
    with _writing("--output", folder):
        outcomes = run_comparison(cells, folder, new_console(), _progress, parallel, lean=lean)
    raise typer.Exit(ENDED_OTHERWISE if any(outcome.error is not None for outcome in outcomes) else 0)


@app.command()
def status(name: Name = None, address: Address = "auto", as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show the round, clients by state, last weights, probe version and rates of a live run."""
    from cluster.reporting.status import status_table

    with _live(name, address) as live:
        shown = live.status()
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        new_console().print(status_table(shown))


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

    with _writing("--output", output or Path()):
        build_world(_load(arguments), output, part, new_console())


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

    console = new_console()
    ensure_world(config, console)
    with _writing("--output", output):
        store = collect_samples(config, output, CollectionLines(_print_line))
    console.print(store_table(store))
    console.print(f"Next: safe-fedllm probe train {output} --output probes/mine", soft_wrap=True)


@probe_app.command("merge")
def merge(
    store: Annotated[Path, _store("The sample store that receives the others.")],
    others: Annotated[list[Path], _store("Stores of the same model, LoRA and recipe.")],
) -> None:
    """Copy the reference clients of other stores into one."""
    from cluster.probes.tables import store_table
    from cluster.probes.train import merge_stores

    new_console().print(store_table(merge_stores(store, others)))


@probe_app.command("train")
def train(
    store: Annotated[Path, _store("Sample store of `probe collect`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as probe.classifier=xgboost.")
    ] = None,
    output: Annotated[Path, _output("Folder of the new probe.")] = Path("probes/mine"),
) -> None:
    """Fit, calibrate and save a probe. Settings are those of the collection, changed by the overrides."""
    from cluster.probes.tables import training_table
    from cluster.probes.train import train_from_store

    console = new_console()
    with _writing("--output", output):
        console.print(training_table(train_from_store(store, overrides or [], output).meta))
    console.print(f"Probe: {output} (use it with probe.path={output})", soft_wrap=True)


@probe_app.command("evaluate")
def evaluate(
    probe: Annotated[Path, _store("Folder of a probe.")],
    store: Annotated[Path, _store("Sample store; families and clients of the training are left out.")],
    output: Annotated[Path, _output("Report; evaluation.png is written beside it.")] = Path("report.json"),
) -> None:
    """Measure a probe on families and clients that its training never saw."""
    from cluster.probes.evaluate import evaluate_probe
    from cluster.probes.tables import breakdown_table, figures_table

    console = new_console()
    with _writing("--output", output):
        figures = evaluate_probe(probe, store, output).report
    console.print(figures_table(figures))
    for name in ("step", "family", "state"):
        console.print(breakdown_table(figures, name))
    console.print(f"Report: {output}, {output.parent / 'evaluation.png'}", soft_wrap=True)


@data_app.command("check")
def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A data file, a folder of them, or a name of the hub (hf:ORG/NAME).")
    ],
    arguments: Arguments = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="As data.columns: instruction=NAME,response=NAME.", metavar="OURS=THEIRS")
    ] = None,
) -> None:
    """Print what a run would understand of data: rows, columns, lengths, what is refused, and three examples.

    With model.path lengths are tokens, and the examples are laid out by its chat template. Exit code 1: something cannot be used.

    Example: safe-fedllm data check alpaca.json model.path=HuggingFaceTB/SmolLM2-135M-Instruct
    """
    pairs = [pair for option in columns or () for pair in option.split(",")]
    config = _load_for_data(path, [*(arguments or []), *(f"data.columns.{pair}" for pair in pairs)])

    from actors.data.findings import examine
    from actors.data.reader import DataReader
    from cluster.data.own_data import file_groups
    from cluster.reporting.data_findings import print_findings

    mapping, length = config.data.columns.given, config.training.max_length
    reader = None if config.is_embedded else DataReader(config.model, length)
    files = [file for group in file_groups(str(_path(path))) for file in group]
    findings = [examine(file, mapping, reader, length) for file in files]
    print_findings(new_console(), findings, length, "characters" if reader is None else "tokens")
    raise typer.Exit(ENDED_OTHERWISE if any(finding.errors for finding in findings) else 0)


@data_app.command("starter")
def starter(folder: Annotated[Path, _store("A folder for the files; none of them may be there already.")]) -> None:
    """Write starter data for the server, to edit, and print the settings that read it.

    Requests that a chat model should refuse with refusals and with openers of answers, harmless instructions with answers, and
    requests that only sound unsafe. The files are in the public domain.
    """
    from cluster.data.starter import starter_configuration, write_starter

    with _writing("DIR", folder):
        write_starter(folder)
    typer.echo("Settings that read these files; paste them into your configuration:\n")
    _print_line(starter_configuration(folder).rstrip())


def _load_for_data(path: str, arguments: list[str]) -> RunConfig:
    """The configuration, of which only the model and how data is read count."""
    file, overrides = split_arguments(arguments)
    document = with_overrides(read_mapping(file) if file else {}, overrides)
    model, data = document.get("model"), document.setdefault("data", {})
    if isinstance(model, dict) and isinstance(data, dict) and model.get("path") is not None:
        data.setdefault("path", path)
    return validate(document)


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

    runs, key = output.parent if output else Path("runs"), "--address" if address else "cluster.address"
    raise typer.Exit(0 if print_findings(check_all(config, runs, timeout, key), None if as_json else new_console()) else 1)


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


@contextmanager
def _live(name: str | None, address: str) -> Iterator[LiveRun]:
    from cluster.live.control import LiveRun
    from cluster.ray_connection.session import ray_session

    with ray_session(address, "--address"):
        yield LiveRun(name)


def _order(name: str | None, address: str, give: Callable[[LiveRun], None], text: str) -> None:
    with _live(name, address) as live:
        give(live)
        _print_line(f"{live.name}: {text}")


def _print_line(text: str) -> None:
    print(plain(text), flush=True)


@contextmanager
def _writing(option: str, folder: Path) -> Iterator[None]:
    """Errors of the system while a directory is made and filled name the option that gave it."""
    shown = f"{option} {ascii(str(folder))[1:-1]:.200}"
    try:
        if not str(folder).isprintable():
            raise ConfigError(f"{shown} holds a control character; name another place")
        yield
    except OSError as error:
        if not _concerns(error, folder):
            raise
        fix = f"make room there and {resume_command(folder)}" if has_begun(folder) else _OTHER_PLACE
        raise ConfigError(f"{shown}: {error.strerror}; {fix}") from error


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether it is about the directory, what is in it or above it; the system does not say which file it could not fill."""
    if not isinstance(error.filename, str):
        return error.filename is None and error.errno is not None
    file, place = Path(error.filename).absolute(), folder.absolute()
    return file.is_relative_to(place) or place.is_relative_to(file)


@contextmanager
def _progress(console: Console, label: str = "") -> Iterator[RunCallback]:
    from cluster.reporting.progress import ProgressBars, ProgressLines

    progress = ProgressBars(console, label) if console.is_terminal else ProgressLines(_print_line, label)
    try:
        yield progress
    finally:
        progress.close()


def main() -> None:
    """Entry point: an error is one line, its traceback is in a log or shown with --verbose, and the exit code is 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())
    try:
        with unwinding_on_signals(report_interrupt):
            code = app(standalone_mode=False)
    except typer.Abort:  # what earlier releases of typer make of Ctrl-C
        code = INTERRUPTED
    except Exception as error:
        code = _usage(error)
        if code is None:
            report(error, verbose=_VERBOSE in sys.argv)
            code = ERROR
    sys.exit(code or 0)


def _usage(error: Exception) -> int | None:
    """Tell what is wrong with the words of the command and return the exit code; None: the error is not about them."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message())
        return ERROR
    context = getattr(error, "ctx", None)
    text = f"error: {message()}" + (f"; see: {context.command_path} --help" if context else "")
    new_console(stderr=True).print(text, style="red", soft_wrap=True)
    return ERROR
