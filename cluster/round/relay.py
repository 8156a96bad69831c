"""One round's traffic: train clients on a pool of actors, relay what they stream, submit in order of client id.

The driver moves references only: a step delta goes from the client to the probe, an update from the client to the
probe and the aggregator, and neither passes through this process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError

from actors.errors import ClientTrainingError
from actors.messages import MeterReading, ProbeRefresh, ProbeScore, TrainTask
from cluster.errors import DeadlineError, LostError
from cluster.round.local_rounds import Delivery, client_failure, first_line, train_all
from cluster.round.refresh import Refresh
from cluster.round.scores import Scores, wait_all
from cluster.simulation.colluding import Collusion
from cluster.workers.deadlines import wait_for
from cluster.workers.pool import ClientPool


class RoundCollector:
    """Runs the clients of one round and hands their results to the aggregator."""

    def __init__(
        self,
        pool: ClientPool,
        reference_pool: ClientPool,
        aggregator: Any,
        probe: Any | None,
        meters: Sequence[Any],
        attacker: Any | None = None,
        *,
        scores_updates: bool,
        client_timeout_s: float,
        start_timeout_s: float,
        probe_timeout_s: float,
        call_timeout_s: float,
        keep_all: bool,
        on_client_done: Callable[[str], None],
        on_client_failed: Callable[[str, str], None],
    ) -> None:
        """Collect one round.

        Args:
            reference_pool: Trains the reference clients of a refresh; it may be the clients' own.
            meters: Measure the updates: the canary, the validation.
            attacker: Makes the updates of simulated attackers that collude.
            scores_updates: The probe scores the updates (level live).
            keep_all: A client whose actor or node is lost ends the round with LostError instead of being dropped from it.
            on_client_done: Receives the id of each client that finishes or is dropped, as it happens.
            on_client_failed: Receives the id and the traceback of a client whose training raised an error.
        """
        self._pool, self._reference_pool, self._aggregator, self._probe = pool, reference_pool, aggregator, probe
        self._meters, self._attacker, self._scores_updates = meters, attacker, scores_updates
        self._scores = Scores(probe)
        self._on_client_done, self._on_client_failed = on_client_done, on_client_failed
        self._timeouts = {"timeout_s": client_timeout_s, "start_timeout_s": start_timeout_s}
        self._probe_timeout_s = probe_timeout_s
        self._call_timeout_s, self._keep_all = call_timeout_s, keep_all
        self._finished: dict[str, Delivery] = {}
        self._admissions: dict[str, Any] = {}
        self._refresh: Refresh | None = None
        self.refresh_wait_s = 0.0
        """Seconds from the last client's end to the end of the refresh."""

    def collect(
        self, tasks: Sequence[TrainTask], adapter: Any, differences: Mapping[str, Any], refresh: Refresh | None, rate: float
    ) -> ProbeRefresh | None:
        """Train every task, in order of client id; returns when each client is submitted or dropped.

        Args:
            adapter: Reference to the global adapter's bytes.
            differences: Client id -> reference to SCAFFOLD's c - c_i; empty without.
            refresh: Reference clients to train after the round's clients; the probe refits on them before it judges.
            rate: The round's learning rate.

        Raises:
            LostError: probe or aggregator is gone, or with `keep_all` a client; the round cannot be closed.
        """
        ordered, self._refresh = sorted(tasks, key=lambda task: task.client_id), refresh
        unsubmitted = deque(task.client_id for task in ordered)
        clients = [(task, adapter, differences.get(task.client_id)) for task in ordered]
        jobs = self._jobs(clients, [(task, adapter) for task in refresh.tasks] if refresh else [])
        collusion = Collusion(self._attacker, ordered, adapter, self._call_timeout_s)
        clients_ended = time.perf_counter()
        with closing(train_all(jobs, **self._timeouts, on_deltas=self._relay)) as deliveries:
            for delivery in deliveries:
                self._check_kept(delivery.task.client_id, delivery.failure if delivery.lost else None)
                if refresh is not None and refresh.owns(delivery.task):
                    refresh.delivered(delivery)
                    continue
                clients_ended = time.perf_counter()
                for own, last_delta in collusion.take(delivery):
                    if last_delta is not None:
                        self._relay([(own.task, last_delta)])
                    self._land(own)
                self._submit_finished(unsubmitted, deadline=None)
                self._settle_admissions(block=False)
        refreshed = self._finish_refresh(rate, clients_ended)
        self._submit_finished(unsubmitted, deadline=time.monotonic() + self._probe_timeout_s)
        self._settle_admissions(block=True)
        return refreshed

    def _jobs(self, clients: Sequence[Any], references: Sequence[Any]) -> list[tuple[ClientPool, Sequence[Any]]]:
        """Which pool trains what: in the same pool reference clients come after all clients, so that these do not wait."""
        if self._reference_pool is self._pool:
            return [(self._pool, [*clients, *references])]
        return [(self._pool, clients), (self._reference_pool, references)]

    def _check_kept(self, client_id: str, loss: str | None) -> None:
        if loss is not None and self._keep_all:
            raise LostError(f"{client_id} {loss}")

    def _relay(self, deltas: Sequence[tuple[TrainTask, Any]]) -> None:
        """Step deltas that came together are scored together."""
        own = [(task, delta) for task, delta in deltas if self._refresh is None or not self._refresh.owns(task)]
        references = [(task, delta) for task, delta in deltas if self._refresh is not None and self._refresh.owns(task)]
        if references:
            self._refresh.observe(references)
        if own and self._probe is not None:
            self._scores.ask([task.client_id for task, _ in own], [delta for _, delta in own])

    def _score_update(self, delivery: Delivery) -> None:
        client_id = delivery.task.client_id
        self._scores.add(client_id, self._probe.score_update.remote(client_id, delivery.update))

    def _land(self, delivery: Delivery) -> None:
        client_id = delivery.task.client_id
        self._finished[client_id] = delivery
        self._on_client_done(client_id)
        if delivery.failure is not None:
            return
        for meter in self._meters:
            self._scores.add(client_id, meter.measure.remote(client_id, delivery.update))
        if self._scores_updates and self._refresh is None:
            self._score_update(delivery)

    def _finish_refresh(self, rate: float, clients_ended: float) -> ProbeRefresh | None:
        """Refit, then score the updates that waited for the refitted probe."""
        if self._refresh is None:
            return None
        refreshed = self._refresh.finish(self._refresh.tasks[0].round_index, rate)
        self.refresh_wait_s = time.perf_counter() - clients_ended
        self._refresh = None
        if self._scores_updates:
            for _, delivery in sorted(self._finished.items()):
                if delivery.failure is None:
                    self._score_update(delivery)
        return refreshed

    def _submit_finished(self, unsubmitted: deque[str], deadline: float | None) -> None:
        """Submit the finished clients in order of id: those whose scores are there, or with a deadline all of them."""
        if deadline is None and self._scores_updates and self._refresh is not None:
            return
        while unsubmitted and unsubmitted[0] in self._finished:
            delivery = self._finished[unsubmitted[0]]
            timeout_s = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
            scored, late = self._scores.wait(unsubmitted[0], timeout_s)
            if late and deadline is None:
                return
            client_id = unsubmitted.popleft()
            del self._finished[client_id]
            if delivery.failure is not None:
                self._aggregator.drop.remote(client_id, delivery.failure)
                continue
            scores = [_score_or_failure(client_id, ref) for ref in scored]
            scores += [
                ProbeScore(client_id=client_id, failure=f"not scored within probe.timeout_s={self._probe_timeout_s:g} s")
                for _ in late
            ]
            self._admissions[client_id] = self._aggregator.submit.remote(client_id, delivery.update, delivery.last_delta, scores)

    def _settle_admissions(self, *, block: bool) -> None:
        """Take the aggregator's answers, with `block` all of them; a client whose update was lost on its way is dropped."""
        for client_id in list(self._admissions):
            if not block and not wait_all([self._admissions[client_id]], 0.0)[0]:
                continue
            try:
                wait_for(self._admissions.pop(client_id), self._call_timeout_s, f"submitting the update of {client_id}")
            except (RayActorError, DeadlineError) as error:
                raise LostError(f"the aggregator is gone: {first_line(error)}") from error
            except ClientTrainingError as error:  # its update was the error that ended its stream
                self._on_client_failed(client_id, str(error.cause))
                self._aggregator.drop.remote(client_id, client_failure(error))
            except ObjectLostError as error:
                self._check_kept(client_id, client_failure(error))
                self._aggregator.drop.remote(client_id, client_failure(error))


def _score_or_failure(client_id: str, ref: Any) -> ProbeScore | MeterReading:
    """A finished score or reading; one that failed is a failure, never a benign verdict."""
    try:
        return ray.get(ref)
    except RayActorError as error:
        raise LostError(f"the probe or a meter is gone: {first_line(error)}") from error
    except RayError as error:
        return ProbeScore(client_id=client_id, failure=f"probe_failed: {first_line(error)}")
