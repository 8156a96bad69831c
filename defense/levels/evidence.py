"""Evidence-Level: the shadow level, whose shadow runs stop once the verdicts agree (docs/method.md section 3).

A client is `collecting` until its last verdicts agree; then it is frozen as `benign` or `malicious`. A frozen benign client
is audited now and then. A frozen malicious one may appeal after `appeal_after` of its rounds, which is ours: the authors
never let one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from defense.levels.level import Level, Trust, Weights
from defense.settings import Settings
from defense.signals import ProbeEvidence, Unasked

if TYPE_CHECKING:
    from defense.config import DefenseConfig

_Past = Mapping[str, Any]
_NEW: _Past = {"status": "collecting", "verdicts": [], "weights": [], "rounds": 0}
"""`verdicts`: the latest equal ones, True for malicious; `weights`: theirs; `rounds`: own rounds since the freeze."""


class EvidenceSettings(Settings):
    """The shadow level with fewer shadow runs; `shadow.strength` and `shadow.learning_rate` hold for it too."""

    verdicts: PositiveInt = 3
    """Equal verdicts in a row that freeze a client."""
    audit_every: PositiveInt = 5
    """A client that is frozen as benign runs a shadow in every so many of its rounds."""
    appeal_after: PositiveInt | None = 10
    """Own rounds after which a client that is frozen as malicious runs a shadow again; None, as the authors: never."""


def wants_shadow(trust: Trust, client_id: str, *, audit_every: int = 5, appeal_after: int | None = None) -> bool:
    """Whether the client's next round needs a shadow: while it collects, and for an audit or an appeal."""
    past = trust.get(client_id, _NEW)
    due = {"collecting": 1, "benign": audit_every, "malicious": appeal_after}[past["status"]]
    return due is not None and past["rounds"] + 1 >= due


def is_banned(trust: Trust, client_id: str) -> bool:
    """Whether the client is frozen as malicious."""
    return trust.get(client_id, _NEW)["status"] == "malicious"


def trusts(trust: Trust, client_id: str) -> float | None:
    """0 for a client that is frozen as malicious, else the mean weight of its latest equal verdicts; None without one."""
    past = trust.get(client_id, _NEW)
    return _frozen_weight(past) if past["weights"] else None


def weigh(
    trust: Trust,
    evidence: Sequence[ProbeEvidence | Unasked],
    *,
    strength: float = 7,
    verdicts: int = 3,
    audit_every: int = 5,
    appeal_after: int | None = None,
) -> tuple[Weights, Trust]:
    """w = (1 - r) ** strength while collecting; frozen: 0, or the mean of the weights that led to the freeze.

    Args:
        verdicts: How many equal verdicts (last shadow step at or above the threshold) freeze a client; a different one
            begins the count again.
        audit_every: A frozen benign client runs a shadow in every so many of its rounds. A failed audit weighs 0 and
            begins the count again; one that passes leaves the client frozen.
        appeal_after: Own rounds after which a frozen malicious client runs a shadow again; None: never. One that fails
            leaves it frozen for as long again; one that passes makes it a client that collects.
    """
    new, weights = dict(trust), {}
    for item in evidence:
        past = new.get(item.client_id, _NEW)
        asked = wants_shadow({item.client_id: past}, item.client_id, audit_every=audit_every, appeal_after=appeal_after)
        if asked != isinstance(item, ProbeEvidence):
            raise ValueError(f"client {item.client_id} is {past['status']}: shadow evidence {'is' if asked else 'is not'} due")
        judged = _judged(past, item, strength, verdicts) if isinstance(item, ProbeEvidence) else _rested(past)
        weights[item.client_id], new[item.client_id] = judged
    return weights, new


def _rested(past: _Past) -> tuple[float, _Past]:
    """A round of a frozen client without a shadow."""
    return _frozen_weight(past), {**past, "rounds": past["rounds"] + 1}


def _judged(past: _Past, item: ProbeEvidence, strength: float, verdicts: int) -> tuple[float, _Past]:
    weight = (1 - item.ratio) ** strength
    if past["status"] == "collecting":
        return _collected(past, item.is_flagged, weight, verdicts)
    if past["status"] == "malicious":
        if item.is_flagged:
            return 0.0, {**past, "rounds": 0}
        return _collected(_NEW, False, weight, verdicts)
    if item.is_flagged:
        return 0.0, dict(_NEW)
    return _frozen_weight(past), {**past, "rounds": 0}


def _collected(past: _Past, is_malicious: bool, weight: float, verdicts: int) -> tuple[float, _Past]:
    agrees = not past["verdicts"] or past["verdicts"][-1] == is_malicious
    seen = {
        "status": "collecting",
        "verdicts": [*(past["verdicts"] if agrees else ()), is_malicious],
        "weights": [*(past["weights"] if agrees else ()), weight],
        "rounds": 0,
    }
    if len(seen["verdicts"]) >= verdicts:
        seen["status"] = "malicious" if is_malicious else "benign"
    return (0.0 if seen["status"] == "malicious" else weight), seen


def _frozen_weight(past: _Past) -> float:
    return 0.0 if past["status"] == "malicious" else fmean(past["weights"])


def _is_due(config: DefenseConfig, trust: Trust, client_id: str) -> bool:
    settings = config.evidence
    return wants_shadow(trust, client_id, audit_every=settings.audit_every, appeal_after=settings.appeal_after)


LEVEL = Level(
    bind=lambda config: partial(weigh, strength=config.shadow.strength, **config.evidence.model_dump()),
    reads="shadow",
    wants_shadow=_is_due,
    is_banned=is_banned,
    trusts=trusts,
)
