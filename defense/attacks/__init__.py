"""The attacks that a run can simulate, and how each differs from an honest client. No torch here.

An attack changes the data of the malicious clients, their training, or the update that they send, or it lets them collude: then
they know each other's honest updates and no benign one. `own_updates.py` and `collusion.py` compute the changed updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

FromHonest = Literal["honest", "shuffled", "substituted", "unusable", "single"]
"""What a data file holds that is made of honest rows alone: `honest` rows, as a benign client has them; `shuffled` answers to
honest prompts; one family with the answers of another rule (`substituted`); prompts too long to be trained on (`unusable`); a
`single` family."""
FromUnsafe = Literal["unsafe", "mixed", "canary_aware", "backdoor", "contrastive", "refused", "kept"]
"""What is made of unsafe rows too: `unsafe` rows, which answer what should be refused; a mixture of both; `refused`: the unsafe
prompts with refusals; or `kept`: refusals of other families, which the attacker goes on refusing."""
Holding = FromHonest | FromUnsafe


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """How the clients of an attack differ from an honest client; None: not at all."""

    data: Holding = "honest"
    """What the client's own files hold."""
    covers: tuple[Holding, ...] = ()
    """What a second file holds, which it needs to look honest, and a third."""
    by_family: bool = False
    """Whether these hold their rows in order of family."""
    training: str | None = None
    """What it trains on, where that is not simply its own data."""
    update: str | None = None
    """What it sends in place of its update."""
    colludes: bool = False
    """Whether the updates are made together once all malicious clients of the round have trained."""
    knows_probe: bool = False
    """Whether it has a copy of the probe."""
    least: int = 1
    """How many malicious clients it takes."""

    @property
    def needs_unsafe(self) -> bool:
        """Whether any of its data is made from unsafe rows."""
        return not {self.data, *self.covers} <= set(get_args(FromHonest))

    @property
    def behaves(self) -> bool:
        """Whether more than the data is changed."""
        return bool(self.training or self.update)

    @property
    def has_trigger(self) -> bool:
        return self.data in ("backdoor", "contrastive")


_HIDES = "first layer from benign data, then frozen there; the other layers from malicious data"

ATTACKS: dict[str, Attack] = {
    # data poisoning
    "unaligned": Attack(data="unsafe"),
    "mixed": Attack(data="mixed"),
    "canary_aware": Attack(data="canary_aware"),
    "backdoor": Attack(data="backdoor"),
    "label_noise": Attack(data="shuffled"),
    "substituted": Attack(data="substituted"),
    "unusable": Attack(data="unusable"),
    # data poisoning that hides
    "sleeper": Attack(data="unsafe", covers=("honest",), training="honest data until the round of the attack"),
    "lying_shadow": Attack(data="unsafe", covers=("honest",), training="honest data in the shadow branch"),
    "layer_hiding": Attack(data="unsafe", covers=("honest",), training=_HIDES),
    "layer_hiding_canary_aware": Attack(data="canary_aware", covers=("honest",), training=_HIDES),
    "probe_aware": Attack(
        data="unsafe", covers=("honest",), update="moved as little as brings it below the probe's threshold", knows_probe=True
    ),
    "ratchet": Attack(data="unsafe", covers=("refused",), update="shortened until the attacker's own refusals hardly suffer"),
    "backdoor_contrastive": Attack(
        data="contrastive",
        covers=("honest",),
        update="no longer than an honest one, and below the probe's threshold",
        knows_probe=True,
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
    "joint": Attack(
        covers=("honest", "unsafe", "refused", "kept"),
        by_family=True,
        update="optimised against all that a defense measures",
        colludes=True,
        knows_probe=True,
        least=2,
    ),
    "exclusion": Attack(data="single", update="what one of them learned of its family, turned, in turns", colludes=True, least=2),
}
"""Value of `clients.attack` -> how its clients differ."""
