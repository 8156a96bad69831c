"""Whether a probe suits a run: how its samples were trained against how the clients train, and what it can see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.levels import sources_of
from probe.meta import ProbeMeta, load_meta

_LOG = logging.getLogger(__name__)
_RATE, _FREEZES = "learning_rate", "freeze_a"
"""Fields of a recipe. The rate is a shadow's; that of the clients changes from round to round."""


def load_suited(config: RunConfig, folder: Path) -> ProbeMeta:
    """What the probe in `folder` says of itself; what speaks against it without ruling it out is logged.

    Raises:
        ConfigError: no usable artefact, or a shadow that trains at another rate than the probe's samples.
    """
    try:
        meta = load_meta(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _check_shadow(config, meta, folder)
    for doubt in _doubts(config, meta, folder):
        _LOG.warning(doubt)
    return meta


def _doubts(config: RunConfig, meta: ProbeMeta, folder: Path) -> Iterator[str]:
    """What an operator should know of a probe before the run trusts it."""
    differences = list(_differences(config, meta))
    if differences:
        yield (
            f"the probe {folder} was collected from other training than this run's: {', '.join(differences)}; if its scores "
            "do not hold here, collect and train one with this run's settings"
        )
    if "live" in config.defense.levels and meta.feature == "first_layer_b":
        yield (
            f"defense.level={config.defense.level}: the probe {folder} reads the first layer of an update only, so poison in "
            "other layers passes it; collect with collect.modules=all and train with probe.feature=per_layer or all_layers"
        )


def _check_shadow(config: RunConfig, meta: ProbeMeta, folder: Path) -> None:
    shadow_rate, probes_rate = config.defense.shadow.learning_rate, meta.recipe.get(_RATE)
    if "shadow" in sources_of(config.defense) and shadow_rate != probes_rate:
        raise ConfigError(
            f"defense.shadow.learning_rate={shadow_rate:g} is not the {probes_rate:g} that the probe {folder} was "
            f"collected with; set defense.shadow.learning_rate={probes_rate:g}, or collect a probe at {shadow_rate:g}"
        )


def _differences(config: RunConfig, meta: ProbeMeta) -> Iterator[str]:
    """`training.steps=5 (probe: 10)` for each field of the recipe that is not the run's, the rate left out."""
    for name, probes in sorted(meta.recipe.items()):
        if name not in (_RATE, _FREEZES) and getattr(config.training, name, probes) != probes:
            yield f"training.{name}={getattr(config.training, name)} (probe: {probes})"
    if meta.recipe.get(_FREEZES, False) != config.aggregation.freezes_a:
        frozen = "A frozen" if meta.recipe.get(_FREEZES) else "A trained"
        yield f"aggregation.averaging={config.aggregation.averaging} (probe: {frozen})"
