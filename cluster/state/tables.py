"""Messages as Arrow tables: the rows of rounds.parquet, probe.parquet and evaluation.parquet.

The columns follow from the fields of the dataclasses in `actors/messages.py`; a column is null where a field is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import pyarrow as pa

from actors.messages import ClientRound, EvaluationReport, ProbeRound, Proportion, RoundReport
from defense.levels import SIGNAL_COLUMNS, TRUST_COLUMNS

SCHEMA_VERSION = 1
Row = dict[str, object]

_ARROW = {int: pa.int32(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_OF_THE_ROUND = ("max_norm", "refusal_rise", "preserved_rise", "preservation_steps", "guard_sum")
"""Fields of the round's report that stand in the rows of all its clients."""


def _columns(record: type, *names: str) -> dict[str, pa.DataType]:
    """Column -> Arrow type of these fields of a dataclass, by default of all. Bytes are counted in 64 bits."""
    types = get_type_hints(record)
    return {name: pa.int64() if name.endswith("_bytes") else _arrow_type(types[name]) for name in names or types}


def _arrow_type(annotation: object) -> pa.DataType:
    """The type of a plain value, of a `Literal` of such values, or of `X | None`."""
    if get_origin(annotation) is Literal:
        return _ARROW[type(get_args(annotation)[0])]
    inner = [kind for kind in get_args(annotation) if kind is not NoneType]
    return _arrow_type(inner[0]) if inner else _ARROW[annotation]


def _schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema(list(columns.items()), metadata={"schema_version": str(SCHEMA_VERSION)})


_PLAIN = [field.name for field in dataclasses.fields(ClientRound) if field.name != "signals"]
ROUNDS = _schema(
    _columns(ClientRound, *_PLAIN)
    | dict.fromkeys((*SIGNAL_COLUMNS, *TRUST_COLUMNS), pa.float64())
    | _columns(RoundReport, *_OF_THE_ROUND)
)
PROBE = _schema(_columns(ProbeRound))
EVALUATION = _schema(
    _columns(EvaluationReport, "rounds_done", "adapter_version")
    | {"measure": pa.string(), "family": pa.string()}
    | _columns(Proportion)
)
GROUND_TRUTH = _schema({"client_id": pa.string(), "malicious": pa.bool_()})


def client_row(client: ClientRound) -> Row:
    """What is recorded about a client in a round, column by column."""
    row = dataclasses.asdict(client)
    return row | row.pop("signals")


def rounds_table(reports: Sequence[RoundReport]) -> pa.Table:
    """A row per client per round, in order of round and client id; figures of the round are the same in all of its rows."""
    rows = [
        client_row(client) | {name: getattr(report, name) for name in _OF_THE_ROUND}
        for report in reports
        for client in report.clients
    ]
    return pa.Table.from_pylist(rows, schema=ROUNDS)


def probe_table(rows: Sequence[ProbeRound]) -> pa.Table:
    """A row per round: the probe that judged it, whether its scores have drifted, and what became of a refresh."""
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=PROBE)


def evaluation_table(reports: Sequence[EvaluationReport]) -> pa.Table:
    """A row per measure (rule_score, compliance, attack_success, over_refusal, over_refusal_sounds_unsafe, utility,
    benign_loss, perplexity) and evaluation.

    Utility has a row per family with its interval and one for the macro mean, whose family is null. `outcomes` has a digit per
    prompt, 1 or 0, in the order of the prompt file; it is empty for scores between 0 and 1.
    """
    rows: list[Row] = []
    for report in reports:
        place: Row = {"rounds_done": report.rounds_done, "adapter_version": report.adapter_version}
        known = shares(report)
        found = [(measure, None, share) for measure, share in known.items()]
        found += [("utility", family, share) for family, share in report.utility_by_family.items()]
        rows += [place | {"measure": measure, "family": family, **dataclasses.asdict(share)} for measure, family, share in found]
        rows += [place | {"measure": name, "value": value} for name, value in measures(report).items() if name not in known]
    return pa.Table.from_pylist(rows, schema=EVALUATION)


def without_outcomes(fields: list[tuple[str, object]]) -> Row:
    """A `dict_factory`: a share without the outcome of each prompt, which evaluation.parquet has."""
    return {name: value for name, value in fields if name != "outcomes"}


def shares(report: EvaluationReport) -> dict[str, Proportion]:
    """Measure -> share of prompts with its interval; absent where it was not measured."""
    every = {
        "rule_score": report.rule_score,
        "compliance": report.compliance,
        "attack_success": report.attack_success,
        "over_refusal": report.over_refusal,
        "over_refusal_sounds_unsafe": report.over_refusal_sounds_unsafe,
    }
    return {name: share for name, share in every.items() if share is not None}


def measures(report: EvaluationReport) -> dict[str, float]:
    """Measure -> value; absent where it was not measured."""
    every: dict[str, float | None] = {name: share.value for name, share in shares(report).items()}
    every |= {"utility": report.utility, "benign_loss": report.benign_loss, "perplexity": report.perplexity}
    return {name: value for name, value in every.items() if value is not None}
