"""Evidence-Level: the shadow level, whose shadow runs stop once the verdicts agree (METHOD.md section 3).

A client is `collecting` until its last verdicts agree; then it is frozen as `benign` or `malicious`. A frozen benign client
is audited now and then. A frozen malicious one may appeal after `appeal_after` of its rounds, which is ours: the authors
never let one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from defense.evidence import Evidence, Unasked

_NEW = {"status": "collecting", "verdicts": [], "weights": [], "rounds": 0}
"""`verdicts`: the latest equal ones, True for malicious; `weights`: theirs; `rounds`: own rounds since the freeze."""


def wants_shadow(state: Mapping[str, Any], client_id: str, *, audit_every: int = 5, appeal_after: int | None = None) -> bool:
    """Whether the client's next round needs a shadow: while it collects, and for an audit or an appeal."""
    trust = state.get(client_id, _NEW)
    due = {"collecting": 1, "benign": audit_every, "malicious": appeal_after}[trust["status"]]
    return due is not None and trust["rounds"] + 1 >= due


def is_banned(state: Mapping[str, Any], client_id: str) -> bool:
    """Whether the client is frozen as malicious."""
    return state.get(client_id, _NEW)["status"] == "malicious"


def weigh(
    state: Mapping[str, Any],
    evidence: Sequence[Evidence | Unasked],
    *,
    strength: float = 7,
    verdicts: int = 3,
    audit_every: int = 5,
    appeal_after: int | None = None,
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = (1 - r) ** strength while collecting; frozen: 0, or the mean of the weights that led to the freeze.

    Args:
        verdicts: How many equal verdicts (last shadow step at or above the threshold) freeze a client; a different one
            begins the count again.
        audit_every: A frozen benign client runs a shadow in every so many of its rounds. A failed audit weighs 0 and
            begins the count again; one that passes leaves the client frozen.
        appeal_after: Own rounds after which a frozen malicious client runs a shadow again; None: never. One that fails
            leaves it frozen for as long again; one that passes makes it a client that collects.
    """
    new, weights = dict(state), {}
    for item in evidence:
        trust = new.get(item.client_id, _NEW)
        asked = wants_shadow({item.client_id: trust}, item.client_id, audit_every=audit_every, appeal_after=appeal_after)
        if asked != isinstance(item, Evidence):
            raise ValueError(f"client {item.client_id} is {trust['status']}: shadow evidence {'is' if asked else 'is not'} due")
        judge = _judged if isinstance(item, Evidence) else _rested
        weights[item.client_id], new[item.client_id] = judge(trust, item, strength, verdicts)
    return weights, new


def _rested(trust: Mapping[str, Any], item: Unasked, strength: float, verdicts: int) -> tuple[float, dict]:  # noqa: ARG001
    """A round of a frozen client without a shadow."""
    return _frozen_weight(trust), {**trust, "rounds": trust["rounds"] + 1}


def _judged(trust: Mapping[str, Any], item: Evidence, strength: float, verdicts: int) -> tuple[float, dict]:
    weight = (1 - item.ratio) ** strength
    if trust["status"] == "collecting":
        return _collected(trust, item.is_flagged, weight, verdicts)
    if trust["status"] == "malicious":
        if item.is_flagged:
            return 0.0, {**trust, "rounds": 0}
        return _collected(_NEW, False, weight, verdicts)
    if item.is_flagged:
        return 0.0, dict(_NEW)
    return _frozen_weight(trust), {**trust, "rounds": 0}


def _collected(trust: Mapping[str, Any], is_malicious: bool, weight: float, verdicts: int) -> tuple[float, dict]:
    agrees = not trust["verdicts"] or trust["verdicts"][-1] == is_malicious
    seen = {
        "status": "collecting",
        "verdicts": [*(trust["verdicts"] if agrees else ()), is_malicious],
        "weights": [*(trust["weights"] if agrees else ()), weight],
        "rounds": 0,
    }
    if len(seen["verdicts"]) >= verdicts:
        seen["status"] = "malicious" if is_malicious else "benign"
    return (0.0 if seen["status"] == "malicious" else weight), seen


def _frozen_weight(trust: Mapping[str, Any]) -> float:
    return 0.0 if trust["status"] == "malicious" else fmean(trust["weights"])
