"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from actors.messages import ClientRound, RoundReport
from actors.seeding import stream
from cluster.config.schema import RunConfig

_UNABLE = "no_data: none of its rows has a response token within training.max_length, so it is not sampled"


def draw_clients(config: RunConfig, names: Sequence[str], round_index: int, excluded: Collection[str]) -> list[str]:
    """Clients of a round in the order in which they are drawn: all that take part, or a seeded `clients.per_round` of them.

    Args:
        names: The clients that take part and can deliver.
        excluded: Clients that an experiment leaves out of every round. The others are those that the round would have otherwise.
            It may be left with none, and is then a round without a quorum.
    """
    rng = stream(config.seed, "sampled clients", round_index)
    drawn = [names[int(i)] for i in rng.permutation(len(names))[: config.clients.per_round]]
    return [name for name in drawn if name not in excluded]


def with_unable(report: RoundReport, unable: Iterable[str]) -> RoundReport:
    """The report with a row for each client that takes part, has nothing to train on, and so was not sampled.

    It counts for no quorum: clients that cannot deliver would otherwise end every round.
    """
    rows = [replace(ClientRound.absent(report.round, name, _UNABLE), round_outcome=report.outcome) for name in unable]
    return replace(report, clients=tuple(sorted((*report.clients, *rows), key=lambda row: row.client_id)))
