"""Whether the server's actors could open a round: they begin it beside the clients, and answer once these have delivered."""

from __future__ import annotations

from collections.abc import Mapping

from ray import ObjectRef
from ray.exceptions import RayError

from cluster.errors import ClusterError
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import answer_of


def check_opened(round_index: int, answers: Mapping[str, ObjectRef], timeout_s: float) -> None:
    """Read what each actor, by name, answered to `open_round`.

    Raises:
        LostError: one is gone, or does not answer within `timeout_s`. ClusterError: one cannot open the round; says why.
    """
    for name, answer in answers.items():
        what = f"opening round {round_index + 1} of the {name}"
        try:
            answer_of(answer, timeout_s, what)
        except RayError as error:
            raise ClusterError(f"{what} failed, and without it no update can be judged: {first_line(error)}") from error
