"""A server for one page, behind a token in its address.

The standard library's server does: there are three addresses, all are read only, and of a request nothing is used but whether it
is one of them. An ASGI server would add an event loop and three packages to hold the same page; it is made for many connections.
It is plain HTTP, meant for this machine; from another one, an SSH tunnel leads here.
"""

from __future__ import annotations

import secrets
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

from cluster.errors import ConfigError, in_words
from cluster.watching.following import Followed

_TOKEN_BYTES = 32
_SLOW_S = 10.0
"""How long a client may take to send its request, or to take a part of the page."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer(ThreadingHTTPServer):
    """Serves a page at `url`, and below it its `version` and the `progress` of the round; everything else is not found."""

    daemon_threads = True

    def __init__(self, followed: Followed, host: str = "127.0.0.1", port: int = 0) -> None:
        """`port` 0: any that is free. Raises ConfigError: the address cannot be listened on."""
        self.followed, self.token = followed, secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port}: {in_words(error)}; name an address of this machine and a free port"
            ) from error

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away, or was too slow, is no error; others are shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]

    @property
    def url(self) -> str:
        host, port = self.server_address[0], self.server_address[1]
        shown = socket.gethostname() if ip_address(str(host)).is_unspecified else str(host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/{self.token}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return ip_address(str(self.server_address[0])).is_loopback


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _SLOW_S
    server_version, sys_version = "safe-fedllm", ""

    def do_GET(self) -> None:
        asked, place, followed = self.path.encode(errors="surrogateescape"), f"/{self.server.token}/", self.server.followed
        if secrets.compare_digest(asked, place.encode()):
            self._answer(HTTPStatus.OK, "text/html", followed.page())
        elif secrets.compare_digest(asked, f"{place}version".encode()):
            self._answer(HTTPStatus.OK, "text/plain", followed.version())
        elif secrets.compare_digest(asked, f"{place}progress".encode()):
            self._answer(HTTPStatus.OK, "text/plain", followed.progress())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the address of a request holds the token."""
