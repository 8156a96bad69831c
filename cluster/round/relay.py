"""The relay of one round: what a client sends goes by reference to the actors that admit, score and measure it.

The driver moves references only. A step delta goes from the client to the probe. An update goes to the aggregator, which admits
it once and returns a reference to the admitted update; that reference goes to the probe and to the actors with server data, and
back to the aggregator when the round is closed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.aggregator import Aggregator
from actors.messages import Admission, AdmittedUpdate, ClientEvidence, ProbeScore, Reading
from actors.probe import Probe
from actors.server_data import ServerData
from cluster.errors import DeadlineError, LostError
from cluster.reporting.callback import RunCallback
from cluster.round.local_rounds import Delivery, StepDeltas, client_failure
from cluster.round.scores import Asked, Scores
from cluster.workers.deadlines import first_line, wait_all, wait_for
from cluster.workers.deaths import fate_of
from defense.signals import Signal

_Admitted = tuple[ObjectRef[Admission], ObjectRef[AdmittedUpdate]]
"""What `Aggregator.admit` returns through Ray."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How long a round waits, and for what it begins again."""

    probe_timeout_s: float
    """For scores and readings, once the last client has ended."""
    call_timeout_s: float
    """For one answer of the aggregator."""
    keep_all: bool
    """A client whose actor or node is lost ends the round with LostError instead of being dropped from it."""


class Relay:
    """Receives what the clients of one round send; `collect` gives the evidence once all have ended."""

    def __init__(
        self,
        aggregator: ActorHandle[Aggregator],
        probe: ActorHandle[Probe] | None,
        server_data: Mapping[Signal, ActorHandle[ServerData]],
        settings: RelaySettings,
        callback: RunCallback,
        *,
        scores_updates: bool,
        holds_updates: bool,
    ) -> None:
        """Relay one round.

        Args:
            server_data: Signal -> the actor that measures it on every admitted update.
            callback: Hears of every client that ends, and of every client whose training raised an error.
            scores_updates: Whether the probe scores the updates too (level live).
            holds_updates: Whether these scores wait for `score_updates`, since the probe is refitted first.
        """
        self._aggregator, self._probe, self._server_data = aggregator, probe, server_data
        self._settings, self._callback = settings, callback
        self._scores_updates, self.holds_updates = scores_updates, holds_updates
        self._scores = Scores(probe)
        self._answers: dict[str, ObjectRef[Admission]] = {}
        self._updates: dict[str, ObjectRef[AdmittedUpdate]] = {}
        self._absent: dict[str, str] = {}
        self._signal_of: dict[Asked, Signal] = {}
        """What a reading is of; anything else that was asked is a score."""
        self.last_delivery = time.perf_counter()
        """When the last client ended (perf_counter)."""

    def step_deltas(self, deltas: StepDeltas) -> None:
        """Step deltas that came together are scored together."""
        self._scores.ask([task.client_id for task, _ in deltas], [delta for _, delta in deltas])

    def deliver(self, delivery: Delivery) -> None:
        """A client has ended: let the aggregator admit its update, and the others read the admitted one.

        Raises:
            LostError: the client or its update was lost, and the round keeps all; or the aggregator is gone.
        """
        client_id = delivery.task.client_id
        self._check_kept(client_id, delivery.failure if delivery.lost else None)
        self.last_delivery = time.perf_counter()
        self._callback.client_done(client_id, delivery.failure)
        if delivery.failure is not None:
            self._absent[client_id] = delivery.failure
            return
        answer, update = cast(_Admitted, self._aggregator.admit.remote(client_id, delivery.update, delivery.last_delta))
        self._answers[client_id], self._updates[client_id] = answer, update
        for signal, actor in self._server_data.items():
            reading = actor.measure.remote(update)
            self._signal_of[reading] = signal
            self._scores.add(client_id, reading)
        if not self.holds_updates:
            self._score(client_id)
        self._take_answers(block=False)

    def score_updates(self) -> None:
        """Let the probe score every update, in order of client id; a score that it has given before no longer counts."""
        self.holds_updates = False
        for client_id in sorted(self._updates):
            self._scores.keep(client_id, self._signal_of)
            self._score(client_id)

    def read(self, signal: Signal, actor: ActorHandle[ServerData]) -> list[Reading]:
        """Let an actor with server data measure every admitted update, once all have been collected; waits as `collect` does.

        Raises:
            LostError: as `collect`.
        """
        asked = {client_id: actor.measure.remote(update) for client_id, update in sorted(self._updates.items())}
        self._signal_of.update(dict.fromkeys(asked.values(), signal))
        until = time.monotonic() + self._settings.probe_timeout_s
        found: list[Reading] = []
        for client_id, ref in asked.items():
            is_there = bool(wait_all([ref], max(0.0, until - time.monotonic()))[0])
            found.append(cast(Reading, self._found(client_id, ref) if is_there else self._failed(client_id, ref, self._late)))
        return found

    def collect(self) -> tuple[list[ClientEvidence], dict[str, str]]:
        """Wait for the answers, scores and readings of the round.

        Returns:
            The evidence on every admitted client, in order of id; and client id -> why a client delivered nothing.

        Raises:
            LostError: aggregator, probe or an actor with server data is gone, or as `deliver`.
        """
        until = time.monotonic() + self._settings.probe_timeout_s
        self._take_answers(block=True)
        evidence = []
        for client_id, update in sorted(self._updates.items()):
            there, late = self._scores.wait(client_id, max(0.0, until - time.monotonic()))
            found = [*(self._found(client_id, ref) for ref in there), *(self._failed(client_id, ref, self._late) for ref in late)]
            evidence.append(
                ClientEvidence(
                    client_id=client_id,
                    update=update,
                    scores=tuple(item for item in found if isinstance(item, ProbeScore)),
                    readings=tuple(item for item in found if isinstance(item, Reading)),
                )
            )
        return evidence, self._absent

    def _check_kept(self, client_id: str, loss: str | None) -> None:
        """Raises LostError where the round keeps all clients and this one was lost."""
        if loss is not None and self._settings.keep_all:
            raise LostError(f"{client_id} {loss}")

    def _score(self, client_id: str) -> None:
        if self._scores_updates and self._probe is not None:
            self._scores.add(client_id, self._probe.score_update.remote(self._updates[client_id]))

    def _take_answers(self, *, block: bool) -> None:
        """Take the aggregator's answers, with `block` all of them; only admitted updates stay."""
        for client_id in list(self._answers):
            if not block and not wait_all([self._answers[client_id]], 0.0)[0]:
                continue
            if not self._is_admitted(client_id, self._answers.pop(client_id)):
                del self._updates[client_id]

    def _is_admitted(self, client_id: str, answer: ObjectRef[Admission]) -> bool:
        timeout_s, what = self._settings.call_timeout_s, f"admitting the update of {client_id}"
        try:
            return wait_for(answer, timeout_s, what, "cluster.call_timeout_s").admitted
        except (RayError, DeadlineError) as error:
            fate = fate_of(error)
            if fate == "gone":
                raise LostError(f"the aggregator is gone: {first_line(error)}") from error
            if fate == "object lost":
                self._check_kept(client_id, client_failure(error))
            else:  # as a rule the client's own error, with which its stream ended in place of an update
                self._callback.client_failed(client_id, first_cause(error))
            self._absent[client_id] = client_failure(error)
        return False

    def _found(self, client_id: str, ref: Asked) -> ProbeScore | Reading | None:
        """A finished score or reading; one that failed is a failure, never a benign verdict."""
        try:
            return ray.get(ref)
        except RayError as error:
            fate = fate_of(error)
            if fate == "gone":
                raise LostError(f"the probe or an actor with server data is gone: {first_line(error)}") from error
            self._check_kept(client_id, client_failure(error) if fate == "object lost" else None)
            return self._failed(client_id, ref, first_line(error))

    @property
    def _late(self) -> str:
        return f"not there within probe.timeout_s={self._settings.probe_timeout_s:g} s"

    def _failed(self, client_id: str, ref: Asked, why: str) -> ProbeScore | Reading:
        signal = self._signal_of.get(ref)
        if signal is None:
            return ProbeScore(client_id=client_id, failure=f"probe_failed: {why}")
        return Reading(client_id=client_id, signal=signal, failure=f"{signal}_failed: {why}")


def first_cause(error: BaseException) -> str:
    """The client's own error with its traceback; Ray wraps it as the cause of another."""
    return str(getattr(error, "cause", None) or error)
