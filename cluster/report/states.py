"""What became of a client in a round, in one word and in words."""

from __future__ import annotations

from cluster.report.reading import Row

STATES = {
    "counted": "it counted",
    "weighed down": "the defense gave it less than half of the full weight",
    "excluded": "a level of the defense gave it weight 0",
    "refused": "its update was not admitted",
    "late": "its update came too late, or not at all",
    "pending": "the cluster had no room for it",
    "lost": "its process died",
    "no data": "it has no row to train on",
    "not aggregated": "it was admitted, but the whole round did not count",
}
"""State -> what it means. A client that was not asked in a round has none."""
LETTERS = {"refused": "R", "late": "L", "pending": "P", "lost": "X", "no data": "N", "not aggregated": "S"}
"""How the map of weights marks a client without a weight."""
COUNTING = ("counted", "not aggregated")
"""States of a client to which the defense had no objection."""
_HALF = 0.5
_BY_REASON = {"late": "late", "pending": "pending", "client_lost": "lost", "no_data": "no data"}


def state_of(row: Row) -> str:
    """A key of `STATES`, of a row of rounds.parquet."""
    if not row["admitted"]:
        return _BY_REASON.get((row["reason"] or "").partition(":")[0], "refused")
    if row["weight"] == 0:
        return "excluded"
    if row["weight"] < _HALF:
        return "weighed down"
    return "counted" if row["round_outcome"] == "aggregated" else "not aggregated"


def why(row: Row) -> str:
    """What put the client out in the round, in words; empty where it counted."""
    state = state_of(row)
    if state == "counted":
        return ""
    if state == "excluded" and row["excluded_because"]:
        return f"level {row['excluded_by']}: {row['excluded_because']}"
    if state == "weighed down":
        return f"weight {row['weight']:.3g}{_weighed_down(row)}"
    if state == "not aggregated":
        return f"the round was {row['round_outcome']}"
    return row["reason"] or STATES[state]


def cause(row: Row) -> str:
    """Which signal or check put the client out, in one word or two: a level's name, or the first word of the reason."""
    if state_of(row) == "weighed down":
        return "the probe" if row["flagged"] else "copies" if _has_copies(row) else "little weight"
    return row["excluded_by"] or (row["reason"] or state_of(row)).partition(":")[0]


def _weighed_down(row: Row) -> str:
    if row["flagged"]:
        return ", since the probe flagged it"
    return f", since {row['copies']:.1f} updates of the round are the same or nearly" if _has_copies(row) else ""


def _has_copies(row: Row) -> bool:
    """Whether level consensus may have taken half of the weight: with twice as many copies as others have, at least 2."""
    return (row.get("copies") or 1.0) >= 2
