"""Simulated attackers from the driver's side: who behaves how in a round. The tasks made here go to the clients only."""

from __future__ import annotations

from collections.abc import Mapping

from actors.messages import AttackTask
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from defense.attacks import ATTACKS
from probe.meta import ProbeMeta


def attack_task(
    config: RunConfig, sources: Sources, client_id: str, probe: Mapping[str, bytes], meta: ProbeMeta | None
) -> AttackTask | None:
    """How a client attacks; None for honest clients, and for those whose data alone is poisoned.

    Args:
        probe: The artefact in force when the round begins, before any refresh: that of the previous round.
        meta: What the run's first probe says of itself; None without one.
    """
    name = config.clients.attack
    if client_id not in sources.malicious or not ATTACKS[name].behaves:
        return None
    knows = name in ("probe_aware", "backdoor_contrastive")
    return AttackTask(
        name=name,
        config=config.attack,
        cover=sources.cover.get(client_id, ()),
        from_round=config.first_attack_round,
        probe=probe if knows else {},
        threshold=config.probe.threshold if meta is not None else None,
    )
