"""The table of classifiers. A new one is a file beside these whose `SPEC` stands in the table.

If it has settings, `probe.config.ProbeTraining` holds them in a field of their own.
"""

from __future__ import annotations

from probe.classifiers import boosted, layerwise, linear
from probe.classifiers.base import ClassifierSpec

CLASSIFIERS: dict[str, ClassifierSpec] = {spec.name: spec for spec in (linear.SPEC, layerwise.SPEC, boosted.SPEC)}
"""Classifier name in `probe.json` -> what the rest of the package knows of it."""


def select(choice: str, feature: str | None) -> ClassifierSpec:
    """The classifier for `probe.classifier` and `probe.feature` (None: not set); raises ValueError when none goes with both."""
    for spec in CLASSIFIERS.values():
        if spec.choice == choice and (feature is None or feature in spec.features):
            return spec
    known = "; ".join(f"{spec.choice} with {', '.join(spec.features)}" for spec in CLASSIFIERS.values())
    raise ValueError(
        f"classifier={choice} cannot be fitted to feature={feature}; set probe.classifier and probe.feature to one of {known}"
    )
