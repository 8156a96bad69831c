"""A refresh: reference clients train from the round's global adapter, beside or after the clients, and the probe scores them.

Their updates are measured as those of the clients are, and the aggregator derives the round's bounds from them. A probe that does
not tell them apart is refitted. The refitted one judges only once the driver says so: one whose answer missed the deadline never
does.

The server owns the reference clients' data and knows their labels. They take the pool's actors once no client of the
round waits for one, so that they fill what would idle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.aggregator import Aggregator
from actors.data.references import Reference
from actors.messages import AdmittedUpdate, MeasuredReferences, ProbeRefresh, Reading, ReferenceUpdate, TrainTask
from actors.probe import Probe
from actors.server_data import ServerData
from cluster.errors import DeadlineError, LostError
from cluster.round.local_rounds import Delivery, Job, StepDeltas, shortfall
from cluster.workers.deadlines import first_line, wait_for
from cluster.workers.deaths import answer_of, fate_of

_Read = tuple[ObjectRef[str], ObjectRef[AdmittedUpdate]]
"""What `Aggregator.read_reference` returns through Ray."""


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
    """One refresh: receives what the reference clients send, has it measured, and lets the probe refit."""

    def __init__(
        self,
        probe: ActorHandle[Probe],
        aggregator: ActorHandle[Aggregator],
        measuring: Iterable[ActorHandle[ServerData]],
        references: Sequence[Reference],
        tasks: Sequence[TrainTask],
        *,
        num_steps: int,
        rate: float,
        timeout_s: float,
        keep_all: bool = False,
    ) -> None:
        """Prepare a refresh.

        Args:
            measuring: The actors that measure every update.
            rate: The share of honest clients that the bound of the probe's scores may exclude.
            timeout_s: How long readings may take, and the probe to refit, once the last reference client has delivered.
            keep_all: A reference client whose actor or node is lost ends the round with LostError.
        """
        self._probe, self._tasks, self._num_steps = probe, tasks, num_steps
        self._aggregator, self._measuring = aggregator, tuple(measuring)
        self._read: list[ObjectRef[str]] = []
        self._updates: dict[str, ObjectRef[AdmittedUpdate]] = {}
        self._asked: dict[str, list[ObjectRef[Reading]]] = {}
        self._readings: dict[str, tuple[Reading, ...]] = {}
        self._rate, self._timeout_s, self._keep_all = rate, timeout_s, keep_all
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
        """A reference client has ended: its update is measured. `finish` reports the first failure."""
        client = delivery.task.client_id
        if delivery.lost and self._keep_all:
            raise LostError(f"{client} {delivery.failure}")
        failure = shortfall(delivery, self._num_deltas[client], self._num_steps)
        if failure is not None and self._failure is None:
            self._failure = f"reference client {client}: {failure}"
        if failure is None:
            read, update = cast(_Read, self._aggregator.read_reference.remote(client, delivery.update))
            self._read.append(read)
            self._updates[client] = update
            self._asked[client] = [actor.measure.remote(update) for actor in self._measuring]

    def finish(self, round_index: int, learning_rate: float) -> ProbeRefresh:
        """Refit, and let the new probe judge if it was accepted in time. Where anything fails, the answer says why, and the probe
        stays as it was.

        Raises:
            LostError: the probe is gone, or does not answer when it is to take the new one.
        """
        refreshed = self._refitted(round_index, learning_rate)
        if refreshed.outcome == "accepted":
            answer_of(self._probe.adopt.remote(), self._timeout_s, "adopting the refitted probe")
        return refreshed

    def measured(self, refreshed: ProbeRefresh) -> MeasuredReferences | None:
        """What the round's bounds follow from; None where a reference client or a reading failed. A refit that was rejected
        leaves no scores, but what others measured.

        Args:
            refreshed: What `finish` gave.
        """
        if self._failure is not None:
            return None
        updates = tuple(
            ReferenceUpdate(
                client_id=client,
                malicious=self._labels[client].malicious,
                update=update,
                readings=self._readings[client],
            )
            for client, update in self._updates.items()
        )
        return MeasuredReferences(updates=updates, scored=refreshed.scored, fitted=refreshed.outcome == "accepted")

    def _refitted(self, round_index: int, learning_rate: float) -> ProbeRefresh:
        try:
            if self._failure is None:
                wait_for(self._observed, self._timeout_s, "taking in the reference clients")
                wait_for(self._read, self._timeout_s, "reading the reference clients' updates")
                for client, asked in self._asked.items():
                    self._readings[client] = tuple(wait_for(asked, self._timeout_s, "measuring the reference clients"))
                refitting = self._probe.refresh.remote(learning_rate, self._rate)
                return wait_for(refitting, self._timeout_s, "refitting the probe")
        except DeadlineError as error:
            self._failure = str(error)
        except RayError as error:
            fate = fate_of(error)
            if fate == "gone" or (fate == "object lost" and self._keep_all):
                raise LostError(f"refreshing the probe: {first_line(error)}") from error
            self._failure = first_line(error)
        return ProbeRefresh(round=round_index, outcome="rejected", why=str(self._failure))
