"""What a run with this configuration would do, before anything starts."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cluster.config.schema import RunConfig
from defense.levels import LEVELS

_READS = {
    "real": "the probe, on each local step",
    "shadow": "the probe, on a shadow training",
    "update": "the probe, on the update",
    "canary": "the server's refusals",
    "validation": "the server's clean rows",
    "spectrum": "the singular values of the update",
}


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
        **{f"level {name}": _reads(name) for name in config.defense.levels},
        **_references(config),
        "aggregation": f"{config.aggregation.rule}, {config.aggregation.averaging}",
        "measured": f"before the first round, {_every(evaluation.every)} and at the end{stop}",
        "kept": f"a checkpoint {_every(config.checkpoint.every)}, in {config.checkpoint.path or 'the run directory'}",
        "run directory": str(output) if output else "runs/<time>-<level>",
    }


def _every(rounds: int) -> str:
    return "after every round" if rounds == 1 else f"after every {rounds} rounds"


def _references(config: RunConfig) -> dict[str, str]:
    """The server's own trainings, where the probe is refitted."""
    if not config.refreshes:
        return {}
    number = config.probe.refresh_clients
    when = "in round 1 and where clients are in doubt"
    return {"references": f"{2 * number} trainings of the server's own, {number} of each class, {when}"}


def _reads(name: str) -> str:
    level = LEVELS[name]
    if level.reads is None:
        return "compares the clients' updates" if level.compare else "weighs nothing: every admitted update counts"
    return f"reads {_READS.get(level.reads, level.reads)}"


def plan_table(facts: dict[str, str]) -> Table:
    """A row per fact."""
    table = Table(title="What the run would do", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(name, text)
    return table
