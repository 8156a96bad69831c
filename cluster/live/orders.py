"""Between two rounds: orders from other sessions take effect, clients join, and the pool of actors follows the cluster's size."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayActorError

from actors.errors import SafeFedError
from cluster.config.loading import validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.data.own_data import WatchedDirectory
from cluster.data.token_files import TokenFiles
from cluster.errors import ConfigError
from cluster.live.control import start_control
from cluster.reporting.callback import RunCallback
from cluster.reporting.status import Order, Status, first_status
from cluster.simulation.simulation import new_client_files
from cluster.state.membership import Files, Membership
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import Change, RunState
from cluster.workers.deadlines import wait_for
from cluster.workers.worker_group import WorkerGroup
from defense.config import DefenseConfig

_POLL_S = 0.2
_TIMEOUT_S = 60.0


class Orders:
    """Carries out the orders of other sessions between two rounds, and lets clients join. Owns the run's control actor."""

    def __init__(self, name: str, config: RunConfig, directory: RunDirectory, tokens: TokenFiles) -> None:
        """Start the control actor, by which other sessions find the run.

        Args:
            tokens: Encodes the files of clients that join.

        Raises:
            ClusterError: another run of that name is live.
        """
        self._config, self._directory, self._tokens = config, directory, tokens
        self._status = first_status(name, str(directory.path.resolve()))
        self._control = start_control(self._status)
        path = config.data.path
        self._watch = WatchedDirectory(Path(path), tokens) if config.data.watch and isinstance(path, str) else None
        self._unreadable: frozenset[str] = frozenset()
        self.callback = RunCallback()
        """Receives which orders were carried out or refused."""

    def publish(self, status: Status) -> None:
        """Publish a status without waiting for the control actor."""
        self._status = status
        self._control.publish.remote(status)

    def close(self) -> None:
        """End the control actor: no session finds the run any more."""
        ray.kill(self._control)  # pyright: ignore[reportArgumentType] - Ray's own type of a handle does not fit `kill`

    def carry_out(self, state: RunState, workers: WorkerGroup) -> tuple[RunState, bool]:
        """Carry out the waiting orders; while the run is paused, wait for more.

        Returns:
            The state to go on from, and whether to stop.
        """
        paused, state = False, self._with_arrivals(state)
        while True:
            for verb, value in self._take():
                if verb == "stop":
                    return state, True
                paused = {"pause": True, "resume": False}.get(verb, paused)
                if verb in ("scale", "set"):
                    state = self._changed(state, workers, verb, value)
            if not paused:
                break
            self.callback.state_changed("paused")
            time.sleep(_POLL_S)
        self.callback.state_changed("running")
        workers.resize(len(state.membership.active))
        self._control.publish_actors.remote([ray.put((workers.aggregator, workers.probe))])
        return state, False

    def _take(self) -> Sequence[Order]:
        try:
            return wait_for(self._control.take_orders.remote(), _TIMEOUT_S, "taking orders")
        except RayActorError:  # somebody killed it, and the orders that it held are lost
            self.callback.order_refused("the control actor died and was started again; give orders that were waiting once more")
            self._control = start_control(self._status)
            return ()

    def _changed(self, state: RunState, workers: WorkerGroup, verb: str, value: str | int | None) -> RunState:
        """The state after an order; an order that cannot be carried out is refused and changes nothing."""
        try:
            is_scale = verb == "scale"
            changed = self._scaled(state, int(value or 0)) if is_scale else self._with_defense(state, workers, str(value))
        except SafeFedError as error:
            self.callback.order_refused(f"{verb} {value}: {error}")
            return state
        return self._record(changed, [f"{verb} {value}"])

    def _record(self, state: RunState, orders: Sequence[str]) -> RunState:
        for order in orders:
            self.callback.order_carried_out(state.rounds_done, order)
        return replace(state, changes=(*state.changes, *(Change(round=state.rounds_done, order=order) for order in orders)))

    def _scaled(self, state: RunState, clients: int) -> RunState:
        least = self._config.clients.min_updates or 1
        if clients < least:
            raise ConfigError(f"clients.min_updates={least} could never be reached with {clients} clients")
        known = state.membership.known
        missing = clients - len(known)
        newcomers = self._new_files(known, missing) if missing > 0 else {}
        return self._with_members(state, state.membership.scaled(clients, newcomers))

    def _new_files(self, known: Mapping[str, Files], count: int) -> Mapping[str, Files]:
        return new_client_files(self._config, self._directory.path, self._tokens, known, count)

    def _with_arrivals(self, state: RunState) -> RunState:
        """Let clients join whose files have appeared in data.path and settled; a refused file is read again once changed."""
        newcomers, unreadable = self._watch.arrivals(state.membership.known) if self._watch else ({}, frozenset())
        for why in unreadable - self._unreadable:
            self.callback.order_refused(f"data.watch: {why}; it is tried again once it has changed")
        self._unreadable = unreadable
        if not newcomers:
            return state
        state = self._record(state, [f"join {name}: {', '.join(files)}" for name, files in newcomers.items()])
        return self._with_members(state, state.membership.joined(newcomers))

    def _with_members(self, state: RunState, membership: Membership) -> RunState:
        self._directory.add_benign(membership.known)
        for what in self._tokens.take_left_out():
            self.callback.data_left_out(what)
        self.callback.members_changed(membership.active)
        return replace(state, membership=membership)

    def _with_defense(self, state: RunState, workers: WorkerGroup, change: str) -> RunState:
        current = state.aggregator.defense
        document = {**self._config.model_dump(mode="json"), "defense": current.model_dump(mode="json")}
        defense = validate(with_overrides(document, [change])).defense
        if _fixed(defense) != _fixed(current):
            raise ConfigError(
                "defense.level, defense.shadow.learning_rate and defense.guard.enabled are fixed while a run is live; "
                "stop it and start another"
            )
        changed = replace(state, aggregator=replace(state.aggregator, defense=defense))
        workers.restore(changed)
        return changed


def _fixed(defense: DefenseConfig) -> tuple[str, float, bool]:
    """The settings that the actors were started for."""
    return defense.level, defense.shadow.learning_rate, defense.guard.enabled
