"""Whether a probe suits a run: how its samples were trained against how the clients train, and what it can see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from cluster.config.first_bounds import check_bounds
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.levels import signals_of
from probe.meta import ProbeMeta, load_meta

_LOG = logging.getLogger(__name__)
_RATE, _FREEZES = "learning_rate", "freeze_a"
"""Fields of a probe's recipe. The rate is that of a shadow, since the clients' rate changes from round to round."""


def load_suited(config: RunConfig, path: str | None) -> ProbeMeta | None:
    """What the probe in the folder `path` was made for and from; None: the run has none. Differences that do not rule it out are
    logged as warnings.

    Raises:
        ConfigError: no usable artefact, a shadow that trains at another rate than the probe's samples, or a level without bound.
    """
    meta = _load_suited(config, Path(path)) if path is not None else None
    check_bounds(config, meta)
    return meta


def _load_suited(config: RunConfig, folder: Path) -> ProbeMeta:
    try:
        meta = load_meta(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    of_shadow, of_probe = config.defense.shadow.learning_rate, meta.recipe.get(_RATE)
    if "shadow" in signals_of(config.defense) and of_shadow != of_probe:
        raise ConfigError(
            f"defense.shadow.learning_rate={of_shadow:g} is not the {of_probe:g} that the probe {folder} was "
            f"collected with; set defense.shadow.learning_rate={of_probe:g}, or collect a probe at {of_shadow:g}"
        )
    if differences := ", ".join(_differences(config, meta)):
        _LOG.warning(
            "the probe %s was collected from other training than this run's: %s; if its scores do not hold here, collect and "
            "train one with this run's settings",
            folder,
            differences,
        )
    if "live" in config.defense.levels and meta.feature == "first_layer_b":
        _LOG.warning(
            "defense.level=%s: the probe %s reads the first layer of an update only, so poison in other layers passes it; "
            "collect with collect.modules=all and train with probe.feature=per_layer or all_layers",
            config.defense.level,
            folder,
        )
    return meta


def _differences(config: RunConfig, meta: ProbeMeta) -> Iterator[str]:
    """`training.steps=5 (probe: 10)` for each field of the recipe but the rate that differs from the run's."""
    for name, of_probe in sorted(meta.recipe.items()):
        if name not in (_RATE, _FREEZES) and getattr(config.training, name, of_probe) != of_probe:
            yield f"training.{name}={getattr(config.training, name)} (probe: {of_probe})"
    if meta.recipe.get(_FREEZES, False) != config.aggregation.freezes_a:
        frozen = "A frozen" if meta.recipe.get(_FREEZES) else "A trained"
        yield f"aggregation.averaging={config.aggregation.averaging} (probe: {frozen})"
