"""`safe-fedllm probe`: `collect`, `merge`, `train`, `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, load_arguments, output_option, path_argument
from cluster.commands.progress import print_line
from cluster.commands.writing import writing_to
from cluster.reporting.console import new_console


def collect(
    arguments: Arguments = None,
    output: Annotated[Path, output_option("Sample store; an existing store is completed.")] = Path("probes/store"),
) -> None:
    """Train labelled reference clients on Ray and write a sample per local step into a store.

    Example: safe-fedllm probe collect my.yaml collect.benign_path=good.jsonl collect.malicious_path=bad.jsonl
    """
    config = load_arguments(arguments)

    from cluster.probes.collect import collect_samples
    from cluster.probes.tables import store_table
    from cluster.reporting.progress import CollectionLines
    from cluster.simulation.world_build import ensure_world

    console = new_console()
    ensure_world(config, console)
    with writing_to("--output", output):
        store = collect_samples(config, output, CollectionLines(print_line))
    console.print(store_table(store))
    console.print(f"Next: safe-fedllm probe train {output} --output probes/mine", soft_wrap=True)


def merge(
    store: Annotated[Path, path_argument("The sample store that receives the others.")],
    others: Annotated[list[Path], path_argument("Stores of the same model, LoRA and recipe.")],
) -> None:
    """Copy the reference clients of other stores into one."""
    from cluster.probes.tables import store_table
    from cluster.probes.train import merge_stores

    new_console().print(store_table(merge_stores(store, others)))


def train(
    store: Annotated[Path, path_argument("Sample store of `probe collect`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as probe.classifier=xgboost.")
    ] = None,
    output: Annotated[Path, output_option("Folder of the new probe.")] = Path("probes/mine"),
) -> None:
    """Fit, calibrate and save a probe. Settings are those of the collection, changed by the overrides."""
    from cluster.probes.tables import training_table
    from cluster.probes.train import train_from_store

    console = new_console()
    with writing_to("--output", output):
        console.print(training_table(train_from_store(store, overrides or [], output).meta))
    console.print(f"Probe: {output} (use it with probe.path={output})", soft_wrap=True)


def evaluate(
    probe: Annotated[Path, path_argument("Folder of a probe.")],
    store: Annotated[Path, path_argument("Sample store; families and clients of the training are left out.")],
    output: Annotated[Path, output_option("Report; evaluation.png is written beside it.")] = Path("report.json"),
) -> None:
    """Measure a probe on families and clients that its training never saw."""
    from cluster.probes.evaluate import evaluate_probe
    from cluster.probes.tables import breakdown_table, figures_table

    console = new_console()
    with writing_to("--output", output):
        figures = evaluate_probe(probe, store, output).report
    console.print(figures_table(figures))
    for name in ("step", "family", "state"):
        console.print(breakdown_table(figures, name))
    console.print(f"Report: {output}, {output.parent / 'evaluation.png'}", soft_wrap=True)
