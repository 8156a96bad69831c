"""What the final deltas of a collection's reference clients measure like, for the bounds of levels (`defense/bounds.py`).

The scores of level live come from the probe's training, and the canary's rises from a run: it takes an actor with the base model.
"""

from __future__ import annotations

from defense.levels.agreement import agreements
from defense.levels.consensus import AGREEMENT
from defense.levels.spectrum import FLATNESS, flatness
from defense.rules.round_updates import RoundUpdates, WeightedUpdate
from probe.samples import CLASSES
from probe.store import SampleStore


def measured_references(store: SampleStore) -> dict[str, dict[str, list[float]]]:
    """Column -> `benign` and `malicious` -> values in order of client and adapter state; empty where the store lacks layers.

    A client's agreement is that with the benign clients that started from the same adapter state.

    Raises:
        ValueError: a damaged or foreign file.
    """
    if not any(".lora_A." in name for name in store.meta.shapes):
        return {}
    flat: dict[str, dict[tuple[str, str], float]] = {name: {} for _, name in CLASSES}
    kept: dict[str, RoundUpdates] = {}
    for state, label, delta in store.final_deltas():
        flat[CLASSES[label.malicious][1]][label.client, state] = flatness(delta)
        if not label.malicious:
            update = WeightedUpdate(client_id=label.client, delta=dict(delta), num_samples=1, weight=1.0)
            kept[state] = kept.get(state, RoundUpdates()).add(update)
    agreed = {
        (update.client_id, state): cosine
        for state, updates in kept.items()
        for update, cosine in zip(updates.updates, agreements(updates, [1.0] * len(updates)), strict=True)
    }
    measured = {FLATNESS: flat, AGREEMENT: {"benign": agreed, "malicious": {}}}
    return {
        column: {name: [values[place] for place in sorted(values)] for name, values in by_class.items()}
        for column, by_class in measured.items()
    }
