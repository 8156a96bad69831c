"""A participant's way to the gateway: signed requests by HTTPS, outgoing only, tried again with growing pauses."""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from actors.errors import GatewayError
from actors.remote.enrolment import Invitation
from actors.remote.keys import public_text
from actors.remote.requests import (
    MARK,
    MAX_REASON,
    POLL_S,
    PROTOCOL,
    SIGNATURE,
    STATEMENT,
    Enrol,
    Hello,
    Offer,
    Route,
    Statement,
    to_header,
)

_TIMEOUT_S = 60.0
_LONGEST_PAUSE_S = 10.0
_FULL_PAUSE_S = 0.2


class Withdrawn(Exception):
    """The gateway no longer wants the work: ask for other work."""


class Ended(Exception):
    """The federation is over."""


class Connection:
    """Speaks for one client. Every request waits until the gateway is there, however long that takes."""

    def __init__(
        self, url: str, certificate: str, client_id: str, key: Ed25519PrivateKey, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """`certificate`: the gateway's, PEM. `tell`: called with the reason for which a request waits."""
        self._client_id, self._key, self._tell = client_id, key, tell
        self._http = httpx.Client(base_url=url, verify=_trusting(certificate), timeout=_TIMEOUT_S + POLL_S)
        self._epoch, self._nonce = "", 0

    def close(self) -> None:
        self._http.close()

    def enrol(self, secret: str) -> None:
        """Use an invitation.

        Raises:
            GatewayError: it is not accepted.
        """
        asked = Enrol(client_id=self._client_id, secret=secret, public_key=public_text(self._key))
        answer = self._patiently(lambda: self._post("/enrol", asked.model_dump_json().encode(), b""))
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise GatewayError(f"the invitation is not accepted: {_reason(answer)}; ask the operator for another one")

    def wait_for_work(self) -> Offer | None:
        """The next work; None: there was none while the gateway held the request open.

        Raises:
            Ended: the federation is over. GatewayError: the client is revoked, or the two sides do not fit.
        """
        answer = self._signed("/work")
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            return Offer.model_validate_json(answer.content)
        except ValidationError as error:
            raise GatewayError(f"the gateway offers what this version does not know: {error}; install its version") from error

    def adapter(self, offer: Offer) -> bytes:
        """The global adapter that the work begins with; raises Withdrawn, Ended, GatewayError."""
        return self._signed("/adapter", offer).content

    def difference(self, offer: Offer) -> bytes | None:
        """SCAFFOLD's c - c_i; None without. Raises as `adapter`."""
        return self._signed("/difference", offer).content if offer.has_difference else None

    def send(self, offer: Offer, number: int, message: bytes, *, is_last: bool) -> None:
        """Send message `number` of the work; raises as `adapter`."""
        self._signed("/item", offer, message, item=number, is_last=is_last)

    def fail(self, offer: Offer, number: int, reason: str) -> None:
        """Say that the client cannot do the work; raises as `adapter`."""
        self._signed("/failure", offer, reason[:MAX_REASON].encode(), item=number)

    def _signed(self, route: Route, offer: Offer | None = None, body: bytes = b"", **about: Any) -> httpx.Response:
        """The answer to a signed request, which is not a refusal."""
        if offer is not None:
            about |= {"work": offer.work, "round_index": offer.task.round_index, "base_version": offer.task.base_version}

        def ask() -> httpx.Response:
            if not self._epoch:
                self._epoch = self._hello()
            self._nonce = max(self._nonce + 1, time.time_ns())
            statement = Statement(
                epoch=self._epoch,
                client_id=self._client_id,
                route=route,
                nonce=self._nonce,
                size=len(body),
                sha256=hashlib.sha256(body).hexdigest(),
                **about,
            )
            return self._post(route, statement.model_dump_json().encode(), body)

        while (answer := self._patiently(ask)).status_code == httpx.codes.TOO_MANY_REQUESTS:
            time.sleep(_FULL_PAUSE_S)
        if answer.is_success:
            return answer
        if answer.status_code == httpx.codes.GONE:
            raise Ended
        if answer.status_code in (httpx.codes.CONFLICT, httpx.codes.REQUEST_TIMEOUT):
            self._epoch = ""  # it may have started again
            raise Withdrawn(_reason(answer))
        raise GatewayError(f"the gateway refuses {route} of client {self._client_id}: {_reason(answer)}")

    def _post(self, route: str, head: bytes, body: bytes) -> httpx.Response:
        headers = {STATEMENT: to_header(head), SIGNATURE: to_header(self._key.sign(MARK + head))}
        return self._http.post(route, content=body, headers=headers)

    def _hello(self) -> str:
        answer = self._http.get("/hello").raise_for_status()
        try:
            hello = Hello.model_validate_json(answer.content)
        except ValidationError as error:
            raise GatewayError(f"{self._http.base_url} is no gateway of this project: {error}") from error
        if hello.protocol != PROTOCOL:
            raise GatewayError(f"the gateway speaks protocol {hello.protocol}, this version {PROTOCOL}; install its version")
        return hello.epoch

    def _patiently(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer of a gateway that is there: asks again while it is not, or is too busy."""
        pause = 0.5
        while True:
            try:
                answer = ask()
                if not answer.is_server_error:
                    return answer
                why = f"it answers {answer.status_code}"
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if isinstance(error.__cause__ or error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
                    raise GatewayError(
                        f"{self._http.base_url} does not show the certificate of the invitation ({error}); ask the operator"
                    ) from error
                self._epoch = ""
                why = str(error) or type(error).__name__
            self._tell(f"the gateway is not there ({why}); trying again in {pause:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def connect(invitation: Invitation, key: Ed25519PrivateKey, tell: Callable[[str], None] = lambda _: None) -> Connection:
    """The connection of the client that an invitation names."""
    return Connection(invitation.url, invitation.certificate, invitation.client_id, key, tell)


def _trusting(certificate: str) -> ssl.SSLContext:
    """Trusts this certificate and no other, of whoever issued it."""
    context = ssl.create_default_context(cadata=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _reason(answer: httpx.Response) -> str:
    try:
        return str(json.loads(answer.content)["reason"])[:MAX_REASON]
    except (ValueError, KeyError, TypeError):
        return f"it answers {answer.status_code}"
