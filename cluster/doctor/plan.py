"""What a run with this configuration would do, before anything starts."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cluster.config.schema import RunConfig
from cluster.reporting.first_lines import reads, references


def plan(config: RunConfig, output: Path | None) -> dict[str, str]:
    """What -> in words, for a person."""
    clients, training, evaluation = config.clients, config.training, config.evaluation
    attackers = f", {clients.malicious} of them simulated attackers ({clients.attack})" if clients.malicious else ""
    a_round, model = clients.clients_per_round, config.model
    held = f"{model.dtype}, {model.quantization}" if model.quantization else model.dtype
    stop = f"; the run ends where safety falls under {evaluation.stop_below:g}" if evaluation.stop_below is not None else ""
    return {
        "model": f"embedded world {config.world.seed}" if config.is_embedded else f"{model.path} ({held})",
        "data": "the embedded world's" if config.is_embedded else str(config.data.path),
        "clients": f"{clients.count}{attackers}; {a_round} a round",
        "training": f"{config.rounds} rounds, {config.rounds * a_round} trainings of {training.steps} steps x "
        f"{training.batch_size} examples, learning rate {training.learning_rate:g}",
        **{f"level {name}": reads(name) for name in config.defense.levels},
        **({"references": found} if (found := references(config)) else {}),
        "aggregation": f"{config.aggregation.rule}, {config.aggregation.averaging}",
        "measured": f"before the first round, {_every(evaluation.every)} and at the end{stop}",
        "kept": f"a checkpoint {_every(config.checkpoint.every)}, in {config.checkpoint.path or 'the run directory'}",
        "run directory": str(output) if output else "runs/<time>-<level>",
    }


def _every(rounds: int) -> str:
    return "after every round" if rounds == 1 else f"after every {rounds} rounds"


def plan_table(facts: dict[str, str]) -> Table:
    """A row per fact."""
    table = Table(title="What the run would do", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(name, text)
    return table
