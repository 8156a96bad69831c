"""Which files and folders a run's actors read, and on which nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.workers.nodes import Node

_COPY = "copy it to the node, or name a path on a disk that all nodes share"
_SHARE = "generated and split data is written there: name an --output on a disk that all nodes share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A file or folder that actors read by its path."""

    what: str
    """Its key, or what it is where it has none."""
    path: str
    by_clients: bool = True
    by_server: bool = True
    """Evaluation, probe and reference clients."""
    fix: str = _COPY

    def on(self, node: Node, server_label: str | None) -> bool:
        """Whether an actor on that node may read it. Without a label, what the server reads may be read anywhere."""
        is_server = server_label is None or node.has(server_label)
        hosts_clients = not node.has(server_label) and node.resources.get("CPU", 0) > 0
        return (self.by_server and is_server) or (self.by_clients and hosts_clients)


def needs(config: RunConfig, sources: Sources, folder: Path) -> list[Needed]:
    """What actors read; `folder` is where `prepare_sources` wrote the data that it generated or split."""
    found = [item for item in _needs(config, sources) if not Path(item.path).is_relative_to(folder)]
    return [*found, Needed(what="the run directory", path=str(folder), fix=_SHARE)]


def _needs(config: RunConfig, sources: Sources) -> Iterator[Needed]:
    model, evaluation = sources.model.path, sources.evaluation
    if config.is_embedded or _is_local(model):
        yield Needed(what="the embedded world's base model" if config.is_embedded else "model.path", path=model)
    if sources.probe_path is not None:
        yield Needed(what="the probe (probe.path)", path=sources.probe_path, by_clients=False)
    for what in ("restricted_path", "benign_path"):
        if getattr(evaluation, what) is not None:
            yield Needed(what=f"evaluation.{what}", path=getattr(evaluation, what), by_clients=False)
    for what in ("canary_path", "validation_path"):
        if getattr(sources, what) is not None:
            yield Needed(what=f"evaluation.{what}", path=getattr(sources, what), by_clients=False)
    for files in (*sources.files.values(), *sources.cover.values()):
        yield from (Needed(what="data.path", path=path, by_server=False) for path in files)


def _is_local(model: str) -> bool:
    """Whether a model is a path rather than a name on a hub; it need not be on this machine."""
    return model.startswith(("/", "./", "../", "~")) or Path(model).exists()
