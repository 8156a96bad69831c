"""The bounds that a run begins with: those of its probe's artefact, until a refresh measures reference clients of its own."""

from __future__ import annotations

from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.bounds import ReferenceValues
from defense.config import DefenseConfig
from defense.level_bounds import reference_values, unbounded_by_hand
from defense.levels.live import PROBABILITY
from probe.meta import ProbeMeta


def first_references(defense: DefenseConfig, meta: ProbeMeta | None) -> dict[str, ReferenceValues]:
    """Column -> what was measured of reference clients when the probe was made, where a bound follows from it.

    Args:
        meta: None: the run has no probe.
    """
    measured = meta.references if meta is not None else {}
    by_class = [{column: values[name] for column, values in measured.items()} for name in ("benign", "malicious")]
    return reference_values(defense, *by_class, origin="the probe's artefact", fitted=(PROBABILITY,))


def check_bounds(config: RunConfig, meta: ProbeMeta | None) -> None:
    """See that every level has a bound before its first verdict: a key sets it, the first round's refresh measures reference
    clients for it, or the probe's artefact has their values.

    Raises:
        ConfigError: a level would let nobody pass; names the key and the fix.
    """
    known = first_references(config.defense, meta)
    wanting = unbounded_by_hand(config.defense, config.probe.threshold)
    missing = {name: own for name, own in wanting.items() if own.column not in known}
    if config.refreshes or not missing:
        return
    keys, columns = (" and ".join(names) for names in zip(*((own.key, own.column) for own in missing.values()), strict=True))
    if "live" in config.defense.levels:
        way = f"let reference clients give {'it' if len(missing) == 1 else 'them'} with probe.refresh_every=1"
    else:
        way = "add live to defense.level, whose reference clients give the bound"
    raise ConfigError(
        f"defense.level={config.defense.level}: nothing says from which {columns} on a client "
        f"weighs nothing; set {keys}, or {way}"
    )
