"""Refreshing the probe: reference clients train from the round's global adapter beside the clients, then the probe refits.

The refitted probe judges only once the driver says so: one whose answer missed the deadline never does.

The server owns the reference clients' data and knows their labels. They take the pool's actors once no client of the
round waits for one, so that they fill what would idle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.data.references import Reference
from actors.messages import ProbeRefresh, TrainTask
from actors.probe import Probe
from cluster.errors import DeadlineError, LostError
from cluster.round.local_rounds import Delivery, Job, StepDeltas, shortfall
from cluster.workers.deadlines import first_line, wait_for
from cluster.workers.deaths import answer_of, fate_of


def reference_tasks(
    references: Iterable[Reference], round_index: int, *, feature: str, rate: float, seed: int, freeze_a: bool
) -> list[TrainTask]:
    """A task per reference client: train as a client does, and send every step delta."""
    return [
        TrainTask(
            client_id=reference.label.client,
            round_index=round_index,
            base_version=0,
            files=reference.files,
            learning_rate=rate,
            seed=seed,
            probe_feature=feature,
            freeze_a=freeze_a,
        )
        for reference in references
    ]


class Refresh:
    """One refresh: receives what the reference clients send, hands it to the probe, and lets the probe refit."""

    def __init__(
        self,
        probe: ActorHandle[Probe],
        references: Sequence[Reference],
        tasks: Sequence[TrainTask],
        *,
        num_steps: int,
        timeout_s: float,
        keep_all: bool = False,
    ) -> None:
        """Prepare a refresh.

        Args:
            timeout_s: How long the probe may take to refit once the last reference client has delivered.
            keep_all: A reference client whose actor or node is lost ends the round with LostError.
        """
        self._probe, self._tasks, self._num_steps = probe, tasks, num_steps
        self._timeout_s, self._keep_all = timeout_s, keep_all
        self._labels = {reference.label.client: reference.label for reference in references}
        self._num_deltas: Counter[str] = Counter()
        self._observed: list[ObjectRef] = []
        self._failure: str | None = None

    def jobs(self, adapter: ObjectRef[bytes]) -> list[Job]:
        """The reference clients' training from this adapter."""
        return [Job(task, adapter, self) for task in self._tasks]

    def step_deltas(self, deltas: StepDeltas) -> None:
        """Hand step deltas of the reference clients to the probe."""
        labels = [self._labels[task.client_id] for task, _ in deltas]
        self._num_deltas.update(label.client for label in labels)
        self._observed.append(self._probe.observe.remote(labels, *(delta for _, delta in deltas)))

    def deliver(self, delivery: Delivery) -> None:
        """A reference client has ended; `finish` reports the first failure."""
        client = delivery.task.client_id
        if delivery.lost and self._keep_all:
            raise LostError(f"{client} {delivery.failure}")
        failure = shortfall(delivery, self._num_deltas[client], self._num_steps)
        if failure is not None and self._failure is None:
            self._failure = f"reference client {client}: {failure}"

    def finish(self, round_index: int, rate: float) -> ProbeRefresh:
        """Refit, and let the new probe judge if it was accepted in time. Where anything fails, the answer says why, and the probe
        stays as it was.

        Raises:
            LostError: the probe is gone, or does not answer when it is to take the new one.
        """
        refreshed = self._refitted(round_index, rate)
        if refreshed.accepted:
            answer_of(self._probe.adopt.remote(), self._timeout_s, "adopting the refitted probe")
        return refreshed

    def _refitted(self, round_index: int, rate: float) -> ProbeRefresh:
        try:
            if self._failure is None:
                wait_for(self._observed, self._timeout_s, "taking in the reference clients")
                return wait_for(self._probe.refresh.remote(rate), self._timeout_s, "refitting the probe")
        except DeadlineError as error:
            self._failure = str(error)
        except RayError as error:
            fate = fate_of(error)
            if fate == "gone" or (fate == "object lost" and self._keep_all):
                raise LostError(f"refreshing the probe: {first_line(error)}") from error
            self._failure = first_line(error)
        return ProbeRefresh(round=round_index, accepted=False, why=str(self._failure))
