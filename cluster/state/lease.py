"""The lease on a place: one driver owns a run directory, and one owns a place for checkpoints.

Each driver that takes a place writes a claim `.lease/<epoch>-<token>.json` with the next epoch; the highest epoch owns it. After
writing, a driver lists the claims: whoever sees another of its epoch or a later one withdraws. So of two at once at most one
stays, on any store that lists what was written. The last claim is kept when its driver ends, marked as released: epochs never
repeat.

An owner renews its claim every 10 s. Who finds a claim of this machine asks for its process, which says at once whether it
lives. Who finds one of another machine watches it for 60 s by a clock of its own, since clocks of machines differ: six renewals
that did not come mean a dead owner. An owner that was only slow loses nothing that it had committed: it asks for its epoch before
it writes.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.errors import CheckpointError
from cluster.state.place import UNREADABLE, Place

_LOG = logging.getLogger(__name__)
FOLDER = ".lease"
RENEW_S, EXPIRY_S = 10.0, 60.0
_ATTEMPTS = 8
_CLAIM = re.compile(r"(\d{8,})-([0-9a-f]{32})\.json")


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    epoch: int
    token: str

    @property
    def name(self) -> str:
        return f"{FOLDER}/{self.epoch:08d}-{self.token}.json"


class Lease:
    """Ownership of a place, from `Lease(place)` until `close`, or until another driver took it over."""

    def __init__(self, place: Place, *, renew_s: float = RENEW_S, expiry_s: float = EXPIRY_S) -> None:
        """Take the place.

        Raises:
            CheckpointError: another driver owns it; says who, since when, and what to do. Or the place cannot be written.
        """
        self._place, self._renew_s, self._expiry_s = place, renew_s, expiry_s
        self._since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._claim = self._take()
        self._ended = threading.Event()
        arguments = place, self._claim, self._since, renew_s, self._ended
        threading.Thread(target=_renew, args=arguments, daemon=True, name="lease").start()
        self._finalizer = weakref.finalize(self, _release, place, self._claim, self._since, self._ended, os.getpid())

    @property
    def epoch(self) -> int:
        """Counts the owners of the place, from 1."""
        return self._claim.epoch

    def check(self) -> None:
        """Raises CheckpointError when another driver has taken the place over: this one may write nothing more there."""
        found = _claims(self._place)
        if self._claim not in found or max(found) != self._claim:
            newest = max(found, default=None)
            who = _who(_content(self._place, newest)) if newest and newest != self._claim else "somebody who removed its claim"
            raise CheckpointError(
                f"{self._place.location} was taken over by {who}: this driver writes nothing more there; what it had committed "
                "stands, and the run goes on with the other driver"
            )

    def close(self) -> None:
        """Release the place."""
        self._finalizer()

    def _take(self) -> _Claim:
        for _ in range(_ATTEMPTS):
            found = _claims(self._place)
            if found:
                self._check_free(max(found))
            mine = _Claim(max(found).epoch + 1 if found else 1, uuid.uuid4().hex)
            others = self._written(mine)
            if all(claim.epoch < mine.epoch for claim in others):
                for claim in others:
                    self._place.remove(claim.name)
                return mine
            self._place.remove(mine.name)
            time.sleep(random.uniform(0.02, 0.3))  # so that two that met do not meet again
        raise CheckpointError(f"{self._place.location}: other drivers take it at the same moment; start one only")

    def _written(self, mine: _Claim) -> list[_Claim]:
        """Write the claim and return the others; a claim that is not sure to last is withdrawn."""
        try:
            self._place.write(mine.name, _encoded(self._since))
            return [claim for claim in _claims(self._place) if claim != mine]
        except BaseException:
            with suppress(CheckpointError):
                self._place.remove(mine.name)
            raise

    def _check_free(self, claim: _Claim) -> None:
        """Raises CheckpointError when the owner of this claim lives."""
        content = _content(self._place, claim)
        if content.get("released") is True:
            return
        if content.get("machine") == _machine():
            if _lives(content):
                raise self._held(content, f"wait until it ends, or end it: kill {content.get('pid')}")
            return
        _LOG.warning(
            "%s: its last owner is %s; waiting up to %g s to see whether it lives",
            self._place.location,
            _who(content),
            self._expiry_s,
        )
        if self._moves(claim):
            dead = f"when that process is dead, this command works {self._expiry_s:g} s later"
            raise self._held(content, f"{dead}; wait until it ends")

    def _moves(self, claim: _Claim) -> bool:
        """Whether a claim is renewed, or replaced, before it expires."""
        before, until = _raw(self._place, claim), time.monotonic() + self._expiry_s
        while time.monotonic() < until:
            time.sleep(min(1.0, self._expiry_s / 20))
            now = _raw(self._place, claim)
            if now != before:
                return not _decoded(now).get("released")
        return False

    def _held(self, content: Mapping[str, object], fix: str) -> CheckpointError:
        return CheckpointError(
            f"{self._place.location} belongs to another driver, {_who(content)}; {fix} (if this is a copy of its directory, "
            f"remove {self._place.path(FOLDER)})"
        )


def _claims(place: Place) -> list[_Claim]:
    try:
        names = [name for name, is_folder in place.entries(FOLDER) if not is_folder]
    except UNREADABLE as error:
        raise CheckpointError(f"{place.path(FOLDER)} cannot be read: {error}; let this user read and write there") from error
    return [_Claim(int(match[1]), match[2]) for name in names if (match := _CLAIM.fullmatch(name))]


def _raw(place: Place, claim: _Claim) -> bytes | None:
    try:
        return place.read(claim.name)
    except UNREADABLE:  # it was just replaced, or the store does not answer: then it does not move either
        return None


def _content(place: Place, claim: _Claim) -> Mapping[str, object]:
    return _decoded(_raw(place, claim))


def _decoded(raw: bytes | None) -> Mapping[str, object]:
    """Nothing where it is no claim: such an owner is watched, as one of another machine."""
    try:
        found = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _encoded(since: str, *, released: bool = False) -> bytes:
    me = psutil.Process()
    about = {"machine": _machine(), "host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "since": since}
    return json.dumps({**about, "renewed": time.time(), "released": released}).encode()


def _machine() -> str:
    """Tells in which space a process id counts: that of a machine since its start, and of a container in it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _lives(content: Mapping[str, object]) -> bool:
    pid, started = content.get("pid"), content.get("started")
    if not isinstance(pid, int) or not isinstance(started, float):
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1.0
    except (psutil.Error, ValueError, OverflowError):
        return False


def _who(content: Mapping[str, object]) -> str:
    return f"process {content.get('pid', '?')} on {content.get('host', '?')} since {content.get('since', '?')}"


def _renew(place: Place, claim: _Claim, since: str, renew_s: float, ended: threading.Event) -> None:
    while not ended.wait(renew_s):
        try:
            if claim not in _claims(place):
                return  # taken over; the next `check` says so
            place.write(claim.name, _encoded(since))
        except CheckpointError as error:
            _LOG.warning("the lease could not be renewed, it is tried again: %s", error)


def _release(place: Place, claim: _Claim, since: str, ended: threading.Event, owner: int) -> None:
    """Mark the claim as released; a forked child, which inherits the lease, leaves it alone."""
    ended.set()
    if os.getpid() != owner:
        return
    try:
        if claim == max(_claims(place), default=None):
            place.write(claim.name, _encoded(since, released=True))
    except CheckpointError as error:
        _LOG.warning("the lease could not be released; it expires: %s", error)
