"""Between two rounds: orders from other sessions take effect, clients join, and the pool of actors follows the cluster's size.

An order is carried out or refused with a reason. Whatever it is, it costs nothing but itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from actors.errors import SafeFedError
from cluster.config.loading import validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.data.own_data import WatchedDirectory
from cluster.data.token_files import TokenFiles
from cluster.errors import ConfigError
from cluster.live.driver_side import DriverSide
from cluster.reporting.callback import RunCallback
from cluster.reporting.status import Order, Status, first_status
from cluster.simulation.simulation import new_client_files
from cluster.state.membership import Files, Membership
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import Change, RunState
from cluster.workers.worker_group import WorkerGroup
from defense.config import DefenseConfig

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_MOST_GENERATED = 1_000
"""Clients of the embedded world after an order: their ids have three digits, and sort in order of joining up to there."""
_MOST_SHOWN = 500
"""Characters of an order and of the reason why it is refused."""


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
        self._control = DriverSide(first_status(name, str(directory.path.resolve())))
        path = config.data.path
        self._watch = WatchedDirectory(Path(path), tokens) if config.data.watch and isinstance(path, str) else None
        self._unreadable: frozenset[str] = frozenset()
        self.callback = RunCallback()
        """Receives which orders were carried out or refused."""

    def publish(self, status: Status) -> None:
        """Publish a status without waiting for the control actor."""
        self._control.publish(status)

    def close(self) -> None:
        """End the control actor: no session finds the run any more."""
        self._control.close()

    def carry_out(self, state: RunState, workers: WorkerGroup) -> tuple[RunState, bool]:
        """Carry out the waiting orders; while the run is paused, wait for more.

        Where an order fails while the workers are being changed, `workers.is_restored` is False afterwards.

        Returns:
            The state to go on from, and whether to stop.
        """
        paused, state = False, self._with_arrivals(state)
        while True:
            for verb, value in self._take():
                if verb == "stop":
                    return state, True
                if verb in ("pause", "resume"):
                    paused = verb == "pause"
                else:
                    state = self._changed(state, workers, verb, value)
            if not paused:
                break
            self.callback.state_changed("paused")
            time.sleep(_POLL_S)
        self.callback.state_changed("running")
        workers.resize(len(state.membership.active))
        self._control.publish_actors((workers.aggregator, workers.probe))
        return state, False

    def _take(self) -> Sequence[Order]:
        orders, loss = self._control.take_orders()
        if loss is not None:
            self.callback.order_refused(shown(loss))
        return orders

    def _changed(self, state: RunState, workers: WorkerGroup, verb: str, value: str | int | None) -> RunState:
        """The state after an order; an order that cannot be carried out is refused and changes nothing."""
        try:
            changed = self._after(state, workers, verb, value)
        except Exception as error:  # an order is input: no list of what it may raise would be complete
            if not isinstance(error, SafeFedError):
                _LOG.warning("an order failed", exc_info=True)
            why = str(error) if isinstance(error, SafeFedError) else f"{type(error).__name__}: {error}"
            self.callback.order_refused(f"{shown(f'{verb} {value}')}: {shown(why)}")
            return state
        return self._record(changed, [shown(f"{verb} {value}")])

    def _after(self, state: RunState, workers: WorkerGroup, verb: str, value: str | int | None) -> RunState:
        if verb == "scale":
            return self._scaled(state, value)
        if verb == "set":
            return self._with_defense(state, workers, value)
        raise ConfigError("there are the orders scale, pause, resume, set and stop")

    def _record(self, state: RunState, orders: Sequence[str]) -> RunState:
        for order in orders:
            self.callback.order_carried_out(state.rounds_done, order)
        return replace(state, changes=(*state.changes, *(Change(round=state.rounds_done, order=order) for order in orders)))

    def _scaled(self, state: RunState, clients: str | int | None) -> RunState:
        least, most = self._config.clients.min_updates or 1, max(_MOST_GENERATED, self._config.clients.count)
        if not isinstance(clients, int) or clients < 1:
            raise ConfigError("the number of clients should be a whole number from 1 on")
        if clients < least:
            raise ConfigError(f"clients.min_updates={least} could never be reached with {clients} clients")
        if self._config.is_embedded and clients > most:
            raise ConfigError(f"the embedded world has at most {most} clients")
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
            self.callback.order_refused(shown(f"data.watch: {why}; it is read again once it has changed"))
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

    def _with_defense(self, state: RunState, workers: WorkerGroup, change: str | int | None) -> RunState:
        defense = self._ordered_defense(state.aggregator.defense, change)
        changed = replace(state, aggregator=replace(state.aggregator, defense=defense))
        workers.restore(changed)
        return changed

    def _ordered_defense(self, current: DefenseConfig, change: str | int | None) -> DefenseConfig:
        if not isinstance(change, str) or not change.startswith("defense."):
            raise ConfigError("only defense.KEY=VALUE can change while a run is live")
        if _has_alias(change.partition("=")[2]):
            raise ConfigError("the value may not use YAML aliases; write it out")
        document = {**self._config.model_dump(mode="json"), "defense": current.model_dump(mode="json")}
        defense = validate(with_overrides(document, [change])).defense
        if _fixed(defense) != _fixed(current):
            raise ConfigError(
                "defense.level, defense.shadow.learning_rate, defense.preservation.enabled and defense.guard.enabled are fixed "
                "while a run is live; stop it and start another"
            )
        return defense


def shown(text: str) -> str:
    """Foreign text for a line of a log or a terminal: cut, on one line, and without characters that steer a terminal."""
    cut = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in cut)


def _has_alias(value: str) -> bool:
    """Whether a YAML text repeats a part of itself: a few such lines stand for more than memory holds."""
    try:
        return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(value, Loader=yaml.SafeLoader))
    except yaml.YAMLError:  # whoever reads the value says why
        return False


def _fixed(defense: DefenseConfig) -> tuple[object, ...]:
    """The settings that the actors were started for."""
    return defense.level, defense.shadow.learning_rate, defense.preservation.enabled, defense.guard.enabled
