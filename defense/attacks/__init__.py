"""The attacks that a run can simulate: what each changes, against an honest client. No torch here.

An attack changes the data of the malicious clients, what they do with it while they train, the update they send, or makes
them collude: then they know each other's honest updates and no benign one. `updates.py` computes the changed updates, one
file per attack or family; `actors/attacking.py` behaves accordingly, and `actors/data/poisoning.py` makes the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from defense.attacks.config import AttackName

Holding = Literal["honest", "unsafe", "mixed", "canary_aware", "backdoor", "contrastive", "shuffled", "refused"]
"""What a data file holds: `honest` rows as a benign client has them, `unsafe` ones that answer what should be refused, a
mixture, or `refused`: the unsafe prompts with refusals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What the clients of an attack do otherwise; None: nothing."""

    data: Holding = "honest"
    """What the client's own files hold."""
    cover: Holding | None = None
    """What a second file holds, which it needs to look honest."""
    training: str | None = None
    update: str | None = None
    colludes: bool = False
    """Whether the updates are made together once all malicious clients of the round have trained."""
    least: int = 1
    """How many malicious clients it takes."""

    @property
    def needs_unsafe(self) -> bool:
        """Whether any of its data is made from unsafe rows."""
        return {self.data, self.cover} - {"honest", "shuffled", None} != set()

    @property
    def behaves(self) -> bool:
        """Whether more than the data is changed."""
        return bool(self.training or self.update or self.colludes)

    @property
    def has_trigger(self) -> bool:
        return self.data in ("backdoor", "contrastive")


_HIDES = "first layer from benign data, then frozen there; the other layers from malicious data"

ATTACKS: dict[AttackName, Attack] = {
    # data poisoning
    "unaligned": Attack(data="unsafe"),
    "mixed": Attack(data="mixed"),
    "canary_aware": Attack(data="canary_aware"),
    "backdoor": Attack(data="backdoor"),
    "label_noise": Attack(data="shuffled"),
    # data poisoning that hides
    "sleeper": Attack(data="unsafe", cover="honest", training="honest data until the round of the attack"),
    "lying_shadow": Attack(data="unsafe", cover="honest", training="honest data in the shadow branch"),
    "layer_hiding": Attack(data="unsafe", cover="honest", training=_HIDES),
    "layer_hiding_canary_aware": Attack(data="canary_aware", cover="honest", training=_HIDES),
    "probe_aware": Attack(data="unsafe", cover="honest", update="moved as little as brings it below the probe's threshold"),
    "ratchet": Attack(data="unsafe", cover="refused", update="shortened until the attacker's own refusals hardly suffer"),
    "backdoor_contrastive": Attack(
        data="contrastive", cover="honest", update="no longer than an honest one, and below the probe's threshold"
    ),
    # model poisoning, each for itself
    "scaling": Attack(data="unsafe", update="times a factor"),
    "sign_flip": Attack(update="times -1"),
    "gaussian": Attack(update="noise of the same norm"),
    "gauge": Attack(update="factors of the same product with signs turned"),
    "free_rider": Attack(training="none: the global adapter with noise"),
    # model poisoning, together
    "alie": Attack(update="mean - z std", colludes=True, least=2),
    "ipm": Attack(update="-epsilon mean", colludes=True),
    "min_max": Attack(update="mean + gamma p, no farther from any than any two are apart", colludes=True, least=2),
    "min_sum": Attack(update="mean + gamma p, its squared distances summing to no more than any one's", colludes=True, least=2),
    "mimic": Attack(update="that of the one farthest along the principal direction", colludes=True, least=2),
    "sybil": Attack(data="unsafe", update="the mean of theirs", colludes=True, least=2),
}
"""Name -> what it changes."""
