"""The gateway's memory of one client: the offer that is open, and the messages that have come and nobody has taken yet.

It is bounded: one offer, and `_WAITING` messages; a participant that sends more waits.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from actors.errors import ClientTrainingError
from actors.messages import TrainTask

_WAITING = 2
"""Messages that wait to be taken: one is on its way into the round while the next one comes."""
Item = tuple[bytes, bool] | ClientTrainingError
"""A message and whether it is the last one, or what the client says went wrong."""
_WITHDRAWN = "the work was withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """One round's work, as the server gives it."""

    task: TrainTask
    adapter: bytes
    difference: bytes | None
    work: str
    """An id of its own: a round that is tried again is other work."""


@dataclass(slots=True)
class _Progress:
    work: Work
    num_delivered: int
    is_complete: bool = False
    is_receiving: bool = False


class Desk:
    """Where the server lays work down for one client, and takes what the client sends. All methods run in one event loop."""

    def __init__(self) -> None:
        self._progress: _Progress | None = None
        self._items: asyncio.Queue[Item] = asyncio.Queue(_WAITING)
        self._news = asyncio.Condition()
        self._is_closed = False
        self.last_nonce = -1
        """Of the client's requests to this process."""
        self.knows_end = False
        """Whether the client knows that the federation is over."""

    async def lay_down(self, task: TrainTask, adapter: bytes, difference: bytes | None, num_delivered: int) -> str:
        """Open work, in place of any other, whose messages are dropped; returns its id.

        Args:
            num_delivered: Messages that the server has of this task already, from before the gateway was started again.
        """
        work = Work(task=task, adapter=adapter, difference=difference, work=secrets.token_hex(8))
        async with self._news:
            if not self._items.full():  # whoever waits for the work before learns that it is gone
                self._items.put_nowait(ClientTrainingError(_WITHDRAWN))
            self._items = asyncio.Queue(_WAITING)
            self._progress = _Progress(work, num_delivered)
            self._news.notify_all()
        return work.work

    async def next_item(self, work: str) -> tuple[bytes, bool]:
        """The next message of the client, and whether it is the last.

        Raises:
            ClientTrainingError: the client says that it failed, or the work is no longer open.
        """
        if self._progress is None or self._progress.work.work != work:
            raise ClientTrainingError(_WITHDRAWN)
        item = await self._items.get()
        if isinstance(item, ClientTrainingError):
            raise item
        return item

    async def wait_for_work(self, timeout_s: float) -> tuple[Work, int] | None:
        """Work that the client has not completed, and the number of its messages that are there; None: none came in this time."""
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: self._is_closed or self._is_open)
                found = self._progress if self._is_open else None
        except TimeoutError:
            return None
        return None if found is None else (found.work, found.num_delivered)

    async def close(self) -> None:
        """Nobody waits for work any more."""
        async with self._news:
            self._is_closed = True
            self._news.notify_all()

    @property
    def _is_open(self) -> bool:
        return self._progress is not None and not self._progress.is_complete

    def work(self, work: str, round_index: int, base_version: int) -> Work | None:
        """The open work, if that is the one meant."""
        found = self._progress
        if found is None or found.is_complete:
            return None
        task = found.work.task
        meant = (work, round_index, base_version) == (found.work.work, task.round_index, task.base_version)
        return found.work if meant else None

    @property
    def is_full(self) -> bool:
        """Whether as many messages wait as may."""
        return self._items.full()

    @contextmanager
    def receiving(self, number: int) -> Iterator[Callable[[Item], bool] | None]:
        """Expect message `number` of the open work: None where another one is next, or one is on its way already.

        Yields:
            Takes the message once its bytes are checked; False: the work is another one by now.
        """
        found, items = self._progress, self._items
        if found is None or found.is_complete or found.is_receiving or number != found.num_delivered or items.full():
            yield None
            return

        def take(item: Item) -> bool:
            if self._progress is not found:
                return False
            items.put_nowait(item)
            found.num_delivered += 1
            found.is_complete = isinstance(item, ClientTrainingError) or item[1]
            return True

        found.is_receiving = True
        try:
            yield take
        finally:
            found.is_receiving = False
