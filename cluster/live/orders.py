"""Between two rounds: orders from other sessions take effect, and the pool of actors follows the cluster's size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.errors import SafeFedError
from cluster.config.loading import validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.data.arrivals import Watch
from cluster.data.sources import Sources, new_client_files
from cluster.errors import ConfigError
from cluster.live.control import start_control
from cluster.reporting.progress import Progress
from cluster.state.membership import Roster
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import Change, RunState
from cluster.workers.deadlines import wait_for
from cluster.workers.worker_group import Crew
from defense.config import DefenseConfig

_POLL_S = 0.2
_TIMEOUT_S = 60.0


class Boundary:
    """The driver's side of a run's control actor."""

    def __init__(self, name: str, config: RunConfig, sources: Sources, crew: Crew, directory: RunDirectory) -> None:
        """Make the run known; raises ClusterError when another of that name is live."""
        self._name, self._config, self._sources, self._crew = name, config, sources, crew
        self._directory = directory
        self._control = start_control(name)
        self._watch = Watch(Path(config.data.path)) if config.data.watch else None
        self._unreadable: frozenset[str] = frozenset()
        self.progress = Progress()
        """Receives what becomes of orders."""

    def publish(self, status: dict[str, Any]) -> None:
        """Publish a status; nobody waits for it."""
        self._control.publish.remote(status)

    def close(self) -> None:
        """From here on the run is not found any more."""
        ray.kill(self._control)

    def cross(self, state: RunState) -> tuple[RunState, bool]:
        """Carry out what was ordered; returns the state to go on from, and whether to stop. Waits while the run is paused."""
        paused, state = False, self._with_arrivals(state)
        while True:
            for verb, value in self._orders():
                if verb == "stop":
                    return state, True
                paused = {"pause": True, "resume": False}.get(verb, paused)
                if verb in ("scale", "set"):
                    state = self._changed(state, verb, value)
            if not paused:
                break
            self.progress.state_changed("paused")
            time.sleep(_POLL_S)
        self.progress.state_changed("running")
        self._crew.resize(len(state.roster.active))
        self._control.introduce.remote([ray.put({"aggregator": self._crew.aggregator, "probe": self._crew.probe})])
        return state, False

    def _orders(self) -> Sequence[tuple[str, Any]]:
        try:
            return wait_for(self._control.take_orders.remote(), _TIMEOUT_S, "taking orders")
        except RayActorError:  # it was killed; orders that it held are lost with it, and its status says so
            self.progress.order_refused("the control actor died and was started again; give orders that were waiting once more")
            self._control = start_control(self._name)
            return ()

    def _changed(self, state: RunState, verb: str, value: Any) -> RunState:
        """The state after an order; one that cannot be carried out is told and changes nothing."""
        try:
            changed = self._scaled(state, int(value)) if verb == "scale" else self._with_defense(state, str(value))
        except SafeFedError as error:
            self.progress.order_refused(f"{verb} {value}: {error}")
            return state
        change = Change(round=state.rounds_done, order=f"{verb} {value}")
        self.progress.order_carried_out(change.round, change.order)
        return replace(changed, changes=(*state.changes, change))

    def _scaled(self, state: RunState, clients: int) -> RunState:
        least = self._config.clients.min_updates or 1
        if clients < least:
            raise ConfigError(f"clients.min_updates={least} could never be reached with {clients} clients")
        missing, known = state.roster.num_missing(clients), state.roster.known
        newcomers = new_client_files(self._config, self._directory.path, known, missing) if missing else {}
        return self._with_roster(state, state.roster.scaled(clients, newcomers))

    def _with_arrivals(self, state: RunState) -> RunState:
        """Clients whose files have appeared in data.path and settled are members; what cannot be read is tried again."""
        newcomers, unreadable = self._watch.arrivals(state.roster.known) if self._watch else ({}, frozenset())
        for why in unreadable - self._unreadable:
            self.progress.order_refused(f"data.watch: {why}; it is tried again at every round")
        self._unreadable = unreadable
        if not newcomers:
            return state
        changes = [Change(round=state.rounds_done, order=f"join {name}: {', '.join(newcomers[name])}") for name in newcomers]
        for change in changes:
            self.progress.order_carried_out(change.round, change.order)
        state = self._with_roster(state, state.roster.joined(newcomers))
        return replace(state, changes=(*state.changes, *changes))

    def _with_roster(self, state: RunState, roster: Roster) -> RunState:
        self._directory.write_ground_truth(list(roster.known), self._sources.malicious)
        self.progress.members_changed(roster.active)
        return replace(state, roster=roster)

    def _with_defense(self, state: RunState, change: str) -> RunState:
        current = state.aggregator.defense
        document = {**self._config.model_dump(mode="json"), "defense": current.model_dump(mode="json")}
        defense = validate(with_overrides(document, [change])).defense
        if _fixed(defense) != _fixed(current):
            raise ConfigError(
                "defense.level, defense.shadow.learning_rate and defense.guard.enabled are fixed while a run is live; "
                "stop it and start another"
            )
        changed = replace(state, aggregator=replace(state.aggregator, defense=defense))
        self._crew.restore(changed)
        return changed


def _fixed(defense: DefenseConfig) -> tuple[str, float, bool]:
    """What actors were started for."""
    return defense.level, defense.shadow.learning_rate, defense.guard.enabled
