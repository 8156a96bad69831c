"""Who may speak for which client: invitations, public keys and revocations, in one file on the server's disk.

The command line writes the file and so does the gateway, each under a lock and by a rename; a reader sees the state before or
after a change, never half of one. A revocation holds from the next request on.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from actors.errors import EnrolmentError
from actors.remote.keys import is_public_key

_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Enrolled(BaseModel, extra="forbid", frozen=True):
    """One client as the server knows it."""

    invitation: str | None = None
    """SHA-256 of the secret of an invitation that nobody has used yet; None: there is none."""
    public_key: str | None = None
    """Ed25519, base64; None until the invitation is used."""
    revoked: bool = False


class Invitation(BaseModel, extra="forbid", frozen=True):
    """What the operator hands to a participant, over a channel that both trust; good for one key."""

    url: str
    client_id: str
    secret: str
    certificate: str
    """The gateway's TLS certificate, PEM: the participant speaks to no server that shows another one."""

    def text(self) -> str:
        """One line without blanks."""
        return base64.urlsafe_b64encode(self.model_dump_json().encode()).decode()

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Raises EnrolmentError when the text is no invitation."""
        try:
            return cls.model_validate_json(base64.urlsafe_b64decode(text.strip()))
        except (ValueError, ValidationError) as error:
            raise EnrolmentError("this is no invitation; give the whole line that `safe-fedllm enroll` printed") from error


class _File(BaseModel, extra="forbid", frozen=True):
    clients: Mapping[str, Enrolled] = {}


class Enrolments:
    """The file, read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._clients: Mapping[str, Enrolled] = {}

    def clients(self) -> Mapping[str, Enrolled]:
        """Client id -> what is known of it; raises EnrolmentError when the file cannot be read."""
        try:
            status = self._path.stat()
            if (stamp := (status.st_ino, status.st_mtime_ns)) != self._stamp:
                self._clients, self._stamp = _File.model_validate_json(self._path.read_bytes()).clients, stamp
        except FileNotFoundError:
            self._clients, self._stamp = {}, None
        except (OSError, ValidationError) as error:
            raise EnrolmentError(f"{self._path} cannot be read: {error}; put a copy of it back") from error
        return self._clients

    def public_key(self, client_id: str) -> str | None:
        """The key that speaks for a client; None: nobody does, or no longer."""
        known = self.clients().get(client_id)
        return None if known is None or known.revoked else known.public_key

    def invite(self, client_id: str) -> str:
        """The secret of a new invitation, which replaces one that was not used; only its hash is kept.

        Raises:
            EnrolmentError: the id cannot be one, or has a key already; revoke it and choose another name.
        """
        if not _NAME.fullmatch(client_id):
            raise EnrolmentError(
                f"{client_id!r:.80} is no client id: up to 64 letters, digits, `-` and `_`, a letter or digit first"
            )
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        with self._changing() as clients:
            if (known := clients.get(client_id)) is not None and (known.public_key or known.revoked):
                state = "was revoked" if known.revoked else "has a key already"
                raise EnrolmentError(f"client {client_id} {state}; a key stands for one client for good: choose another name")
            clients[client_id] = Enrolled(invitation=_hash(secret))
        return secret

    def redeem(self, client_id: str, secret: str, public_key: str) -> None:
        """Use an invitation: from here on the key speaks for the client. The same key may use it again, as after a lost answer.

        Raises:
            EnrolmentError: no such invitation, or it is used, or the key is none or speaks for another client.
        """
        if not is_public_key(public_key):
            raise EnrolmentError("the public key is none of Ed25519")
        with self._changing() as clients:
            known = clients.get(client_id)
            if known is None or known.revoked or known.invitation is None or not _is_equal(known.invitation, _hash(secret)):
                raise EnrolmentError("no such invitation")
            if known.public_key is not None and known.public_key != public_key:
                raise EnrolmentError("the invitation is used")
            if any(other.public_key == public_key for name, other in clients.items() if name != client_id):
                raise EnrolmentError("the key speaks for another client")
            clients[client_id] = Enrolled(invitation=known.invitation, public_key=public_key)

    def revoke(self, client_id: str) -> None:
        """Nobody speaks for the client any more, for good; raises EnrolmentError when it is not known."""
        with self._changing() as clients:
            if client_id not in clients:
                raise EnrolmentError(
                    f"client {client_id} is not enrolled in {self._path}; there are: {', '.join(clients) or 'none'}"
                )
            clients[client_id] = clients[client_id].model_copy(update={"revoked": True, "invitation": None})

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Enrolled]]:
        """The clients, to be changed while nobody else changes them; written when the block ends without an error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._stamp = None  # what is changed is what the file holds now
            clients = dict(self.clients())
            yield clients
            part = self._path.with_suffix(".part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                kept = {name: client.model_dump() for name, client in sorted(clients.items())}
                file.write(json.dumps({"clients": kept}, indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _is_equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one, other)
