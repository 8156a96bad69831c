"""From the reference clients of a round to the values that bounds follow from: each update is measured as a client's is."""

from __future__ import annotations

from collections.abc import Callable, Collection

from actors.messages import MeasuredReferences, ReferenceUpdate
from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import References, reference_values
from defense.levels.agreement import agreements
from defense.levels.consensus import AGREEMENT
from defense.rules.round_updates import RoundUpdates, WeightedUpdate


def values_of(
    references: MeasuredReferences,
    defense: DefenseConfig,
    wanted: Collection[str],
    delta_of: Callable[[ReferenceUpdate], WeightedUpdate],
    origin: str,
) -> References:
    """Column -> values in order of client id, whatever the order of arrival.

    Args:
        wanted: Columns that bounds follow from; an agreement takes the updates of all honest references at once.
        delta_of: Subtracts the global adapter.
        origin: Where they trained, such as "round 3".
    """
    benign, unsafe, kept = dict[str, list[float]](), dict[str, list[float]](), RoundUpdates()
    for item in sorted(references.updates, key=lambda item: item.client_id):
        own, update = unsafe if item.malicious else benign, delta_of(item)
        delta = {name: tensor.float() for name, tensor in update.delta.items()}
        for values in (*(reading.values for reading in item.readings), *levels.measure(defense, delta).values()):
            for column, value in values.items():
                own.setdefault(column, []).append(value)
        if AGREEMENT in wanted and not item.malicious:
            kept = kept.add(update)
    if kept.updates:
        benign[AGREEMENT] = agreements(kept, [1.0] * len(kept))
    for column, values in references.scored.items():
        benign[column], unsafe[column] = [*values["benign"]], [*values["malicious"]]
    fitted = references.scored if references.fitted else ()
    return reference_values(defense, benign, unsafe, origin, fitted)
