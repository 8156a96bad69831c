"""The gateway: what participants outside the cluster reach by HTTPS, and nothing else.

Everything that comes in is hostile until it is checked, in this order: the form and size of the head, the client's key, the
signature, the nonce, the open work, the number of the message; only then the body is read, up to the size that the adapter's
layout allows and within a deadline, and its hash compared. The bytes go on as they are: admission decodes and checks them, as it
does those of a local client. A participant reads the global adapter and its own work.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as WebRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from actors.errors import ClientTrainingError, EnrolmentError
from actors.messages import AdapterLayout, TrainTask
from actors.remote.desk import Desk, Work
from actors.remote.enrolment import Enrolments
from actors.remote.keys import is_public_key, is_signed
from actors.remote.requests import (
    MARK,
    MAX_REASON,
    MAX_STATEMENT_BYTES,
    POLL_S,
    PROTOCOL,
    SIGNATURE,
    STATEMENT,
    Enrol,
    Hello,
    Offer,
    Route,
    Settings,
    Statement,
    from_header,
)

_FLOAT_BYTES = 4
_HEADER_BYTES_PER_TENSOR = 512
"""Of a safetensors header: the name, the type, the shape and the place of a tensor, as text."""
_HEADER_BYTES = 64 << 10
"""Of a message's plain fields, with room to spare."""
_HEAD_BYTES = 16 << 10
"""Most of a request's head, in all."""

_FAREWELL_S = 10.0
"""How long the end waits for participants at work. One that is away has to be stopped by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the gateway listens, and what it allows."""

    host: str
    port: int
    """0: any that is free."""
    certificate: Path
    """PEM, likewise `key`."""
    key: Path
    request_timeout_s: float = 60.0
    """How long a connection may take for the head of a request, and a request for its body."""
    max_connections: int = 256


class _Refused(Exception):
    """A request that does not count."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Gateway:
    """Lays work down for participants and takes what they send. Runs in one event loop."""

    def __init__(self, endpoint: Endpoint, enrolments: Enrolments, layout: AdapterLayout, settings: Settings) -> None:
        self._endpoint, self._enrolments, self._settings = endpoint, enrolments, settings
        self._max_bytes = max_message_bytes(layout, scaffold=settings.training.scaffold)
        self._epoch = secrets.token_hex(16)
        self._desks: dict[str, Desk] = {}
        self._has_ended = False
        self._port: int | None = None
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen, if it does not yet; returns the port. An actor that Ray started again listens from the next offer on.

        Raises:
            OSError: the port is taken, or the certificate cannot be read.
        """
        if self._port is not None:
            return self._port
        endpoint = self._endpoint
        listening = socket.create_server((endpoint.host, endpoint.port), family=_family(endpoint.host))
        config = uvicorn.Config(
            self.app(),
            ssl_certfile=str(endpoint.certificate),
            ssl_keyfile=str(endpoint.key),
            http=_patient_for(endpoint.request_timeout_s),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=endpoint.max_connections,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        self._server = server = uvicorn.Server(config)
        self._serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(0.01)
        self._port = port = listening.getsockname()[1]
        return port

    async def offer(self, task: TrainTask, adapter: bytes, difference: bytes | None = None, num_delivered: int = 0) -> str:
        """Lay a task down for its client, in place of any other; returns the id of the work."""
        await self.start()
        return await self._desk(task.client_id).lay_down(replace(task, files=()), adapter, difference, num_delivered)

    async def next_item(self, client_id: str, work: str) -> tuple[bytes, bool]:
        """The next message that the client sends, and whether it is the last.

        Raises:
            ClientTrainingError: the client says that it failed, or the work was withdrawn.
        """
        return await self._desk(client_id).next_item(work)

    async def end(self) -> None:
        """Tell participants that ask for work that it is over. Returns once all know that are there, or in 10 s."""
        self._has_ended = True
        for desk in self._desks.values():
            await desk.close()
        deadline = time.monotonic() + _FAREWELL_S
        while time.monotonic() < deadline and any(desk.last_nonce >= 0 and not desk.knows_end for desk in self._desks.values()):
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._serving

    def app(self) -> Starlette:
        """The endpoint as an ASGI application."""
        handlers: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
            "/enrol": self._enrol,
            "/work": self._work,
            "/adapter": self._adapter,
            "/difference": self._difference,
            "/item": self._item,
            "/failure": self._failure,
        }
        routes = [WebRoute(path, handler, methods=["POST"]) for path, handler in handlers.items()]
        errors: dict[Any, Any] = {_Refused: _refusal, ClientDisconnect: _gone}
        return Starlette(routes=[WebRoute("/hello", self._hello), *routes], exception_handlers=errors)

    async def _hello(self, _: Request) -> Response:
        return JSONResponse(Hello(protocol=PROTOCOL, epoch=self._epoch).model_dump())

    async def _enrol(self, request: Request) -> Response:
        head, signature = _signed_head(request)
        try:
            asked = Enrol.model_validate_json(head)
        except ValidationError:
            raise _Refused(400, "no request to enrol") from None
        if not (is_public_key(asked.public_key) and is_signed(asked.public_key, signature, MARK + head)):
            raise _Refused(403, "the request is not signed by the key that it names")
        try:
            await asyncio.to_thread(self._enrolments.redeem, asked.client_id, asked.secret, asked.public_key)
        except EnrolmentError as error:
            raise _Refused(403, str(error)) from None
        return Response(status_code=204)

    async def _work(self, request: Request) -> Response:
        statement = self._statement(request, "/work", most=0)
        desk = self._desk(statement.client_id)
        found = None if self._has_ended else await desk.wait_for_work(POLL_S)
        if self._has_ended:
            desk.knows_end = True
            raise _Refused(410, "the federation has ended")
        if found is None:
            return Response(status_code=204)
        work, num_delivered = found
        offer = Offer(
            work=work.work,
            task=work.task,
            num_delivered=num_delivered,
            has_difference=work.difference is not None,
            settings=self._settings,
        )
        return Response(offer.model_dump_json(), media_type="application/json")

    async def _adapter(self, request: Request) -> Response:
        return _bytes(self._meant(self._statement(request, "/adapter", most=0)).adapter)

    async def _difference(self, request: Request) -> Response:
        difference = self._meant(self._statement(request, "/difference", most=0)).difference
        if difference is None:
            raise _Refused(404, "the work has no control variates")
        return _bytes(difference)

    async def _item(self, request: Request) -> Response:
        statement = self._statement(request, "/item", most=self._max_bytes)
        work = self._meant(statement)
        if statement.item >= self._most_items(work):
            raise _Refused(409, "more messages than steps")
        body = await self._taken(request, statement, lambda body: (body, statement.is_last))
        return JSONResponse({"bytes": len(body)})

    async def _failure(self, request: Request) -> Response:
        statement = self._statement(request, "/failure", most=4 * MAX_REASON)
        self._meant(statement)
        await self._taken(request, statement, lambda body: ClientTrainingError(_printable(body)))
        return Response(status_code=204)

    async def _taken(self, request: Request, statement: Statement, item: Callable[[bytes], Any]) -> bytes:
        """Read the body and take it as the next message of the open work."""
        desk = self._desk(statement.client_id)
        if desk.is_full:
            raise _Refused(429, "too many messages wait")
        with desk.receiving(statement.item) as take:
            if take is None:
                raise _Refused(409, "another message is next")
            body = await self._body(request, statement)
            if self._enrolments.public_key(statement.client_id) is None:
                raise _Refused(401, "no such key")  # revoked meanwhile
            if not take(item(body)):
                raise _Refused(409, "no such work")
        return body

    def _statement(self, request: Request, route: Route, most: int) -> Statement:
        """What a request says it is about, once its signature, its time and its size are checked; its nonce is used."""
        head, signature = _signed_head(request)
        try:
            statement = Statement.model_validate_json(head)
        except ValidationError:
            raise _Refused(400, "the statement is none") from None
        key = self._enrolments.public_key(statement.client_id)
        if key is None or not is_signed(key, signature, MARK + head):
            raise _Refused(401, "no such key")
        if statement.epoch != self._epoch:
            raise _Refused(409, "the gateway has started again")
        if statement.route != route:
            raise _Refused(409, "signed for another request")
        desk = self._desk(statement.client_id)
        if statement.nonce <= desk.last_nonce:
            raise _Refused(409, "replayed")
        desk.last_nonce = statement.nonce
        if _length(request) != statement.size or statement.size > most:
            raise _Refused(413, f"the body may have {most} bytes")
        return statement

    def _meant(self, statement: Statement) -> Work:
        work = self._desk(statement.client_id).work(statement.work, statement.round_index, statement.base_version)
        if work is None:
            raise _Refused(409, "no such work")
        return work

    async def _body(self, request: Request, statement: Statement) -> bytes:
        """The body, as long and with the hash as it was signed."""
        parts, received = [], 0
        try:
            async with asyncio.timeout(self._endpoint.request_timeout_s):
                async for part in request.stream():
                    received += len(part)
                    if received > statement.size:
                        raise _Refused(413, "the body is longer than signed")
                    parts.append(part)
        except TimeoutError:
            raise _Refused(408, "the body came too slowly") from None
        body = b"".join(parts)
        if len(body) != statement.size or hashlib.sha256(body).hexdigest() != statement.sha256:
            raise _Refused(422, "the body is not the one that was signed")
        return body

    def _most_items(self, work: Work) -> int:
        """A step delta for each step of both branches, and the update."""
        return 2 * (work.task.num_steps or self._settings.training.steps) + 1

    def _desk(self, client_id: str) -> Desk:
        """Of a client that is enrolled, or that the server names; so there are never more than clients."""
        return self._desks.setdefault(client_id, Desk())


def max_message_bytes(layout: AdapterLayout, *, scaffold: bool) -> int:
    """Most bytes of a client's message: every tensor of the adapter in float32, with a control variate twice, and a header."""
    copies = 2 if scaffold else 1
    numbers = sum(_product(shape) for shape in layout.shapes.values())
    return copies * (_FLOAT_BYTES * numbers + _HEADER_BYTES_PER_TENSOR * len(layout.shapes)) + _HEADER_BYTES


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _product(shape: tuple[int, ...]) -> int:
    made = 1
    for size in shape:
        made *= size
    return made


def _signed_head(request: Request) -> tuple[bytes, bytes]:
    """The statement's bytes and the signature, of a request in the one form that is accepted."""
    if "content-encoding" in request.headers or "transfer-encoding" in request.headers:
        raise _Refused(415, "bodies are sent whole and as they are")
    head, signature = (from_header(request.headers.get(name, "")[: 2 * MAX_STATEMENT_BYTES]) for name in (STATEMENT, SIGNATURE))
    if not head or not signature or len(head) > MAX_STATEMENT_BYTES:
        raise _Refused(400, "the request is not signed")
    return head, signature


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Refused(400, "no length")
    return int(text)


def _printable(body: bytes) -> str:
    """What a client says of its failure, as one line that changes nobody's terminal."""
    text = "".join(c if c.isprintable() else " " for c in body.decode(errors="replace"))
    return " ".join(text.split())[:MAX_REASON] or "it gives no reason"


def _bytes(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


async def _refusal(_: Request, error: _Refused) -> Response:
    """The connection ends with a refusal, so that a body that nobody reads is not waited for."""
    return JSONResponse({"reason": str(error)}, status_code=error.status, headers={"connection": "close"})


async def _gone(_: Request, error: ClientDisconnect) -> Response:  # noqa: ARG001 - the form that starlette calls
    return Response(status_code=400)


def _patient_for(seconds: float) -> type[H11Protocol]:
    """The HTTP protocol with a deadline for the head of each request; uvicorn has one only between two requests."""

    class Bounded(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._watch, None)

        def _watch(self, seen: object) -> None:
            """Look once in `seconds`: a connection that answers nothing now, and answered the same request before, is closed."""
            if self.transport.is_closing():
                return
            if self.cycle is seen and (self.cycle is None or self.cycle.response_complete):
                self.transport.abort()
                return
            self.loop.call_later(seconds, self._watch, self.cycle)

    return Bounded
