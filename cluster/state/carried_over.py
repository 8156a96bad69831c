"""The configuration of a run that goes on: it belongs to the checkpoint, and `config.yaml` may differ in some keys only.

`MAY_CHANGE` says which. Every other key decides what the committed rounds are, or what the remaining ones must be to belong to
the same run. `rounds` is among those: the cosine of the learning rate and the first round of sleepers run over all rounds, so a
run of another length is another run from its first round on.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.config.loading import flat_values
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

MAY_CHANGE: Mapping[str, str] = {
    "name": "other sessions find the run by it; no result depends on it",
    "cluster.": "where the actors run changes no bit",
    "gateway.": "by which way participants come in changes no bit",
    "checkpoint.": "where and how often rounds are kept changes no bit; without its checkpoints a run is not resumed at all",
    "tracking": "who is told changes no bit",
    "clients.timeout_s": "how long to wait",
    "clients.on_client_loss": "what a death costs, which was not there yet",
    "probe.timeout_s": "how long to wait",
    "evaluation.timeout_s": "how long to wait",
    "evaluation.stop_below": "when to end; the rounds before are the same",
    "defense.": "what `safe-fedllm set` may change while the run is live",
    "model.path": "the same model may lie elsewhere; its fingerprint is compared",
    "world.path": "likewise",
    "probe.path": "the probe in force lies in the checkpoint",
    "data.path": "the same data may lie elsewhere",
    "data.malicious_path": "likewise",
    "evaluation.restricted_path": "likewise",
    "evaluation.benign_path": "likewise",
    "evaluation.canary_path": "likewise",
    "evaluation.validation_path": "likewise",
    "collect.benign_path": "likewise",
    "collect.malicious_path": "likewise",
}
"""Key, or section with a dot at its end -> why it may change between two rounds. What changes is recorded."""

FIXED: Mapping[str, str] = {
    "gateway.enabled": "who trains outside the cluster belongs to the run, likewise `gateway.clients`",
    "gateway.clients": "likewise",
    "defense.level": "the actors and the trust in clients are those of the level",
    "defense.shadow.learning_rate": "the probe was made for it",
    "defense.preservation.enabled": "the canary's actor is started for it",
    "defense.guard.enabled": "a guard begins with the run",
}
"""Exceptions from the sections above."""


Difference = tuple[object, object]
"""The committed value of a key, and the asked one."""


def may_change(key: str) -> bool:
    """Whether a run may go on with another value of this key."""
    if key in FIXED:
        return False
    return any(key.startswith(other) if other.endswith(".") else key == other for other in MAY_CHANGE)


def differences(committed: RunConfig, asked: RunConfig) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Keys that differ and may not change, and those that may, each with both values."""
    old, new = flat_values(committed), flat_values(asked)
    differing = {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}
    fixed = {key: values for key, values in differing.items() if not may_change(key)}
    return fixed, {key: values for key, values in differing.items() if key not in fixed}


def changed_keys(committed: RunConfig, asked: RunConfig) -> list[str]:
    """`key: old -> new` for every key that differs, as the run records it.

    Args:
        committed: The configuration of the checkpoint.
        asked: The one in config.yaml.

    Raises:
        ConfigError: a key differs that may not change; names each, with both values and the fix.
    """
    fixed, free = differences(committed, asked)
    if fixed:
        raise ConfigError(
            "\n".join(
                f"{key}: config.yaml has {new}, the committed rounds ran with {old}; put it back to {old}, or start another run "
                f"with {key}={new}"
                for key, (old, new) in fixed.items()
            )
        )
    return [f"{key}: {old} -> {new}" for key, (old, new) in free.items()]
