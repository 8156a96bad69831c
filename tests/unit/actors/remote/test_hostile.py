"""What a hostile participant, or a stranger, sends to the gateway: none of it counts, and the honest are not disturbed."""

import hashlib
import json
import socket
import ssl
import time
from dataclasses import dataclass

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.remote.gateway import max_message_bytes
from actors.remote.keys import public_text
from actors.remote.requests import MARK, SIGNATURE, STATEMENT, Enrol, Statement, to_header
from tests.unit.actors.builders import train_task

BODY = b"a message"


@dataclass
class Attack:
    """An enrolled client with open work, and requests made by hand."""

    http: httpx.Client
    key: Ed25519PrivateKey
    epoch: str
    work: str
    nonce: int = 0

    def statement(self, body: bytes = BODY, **changes) -> Statement:
        """A statement that would count, with these fields changed."""
        self.nonce += 1
        fields = {
            "epoch": self.epoch,
            "client_id": "mallory",
            "route": "/item",
            "nonce": self.nonce,
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "work": self.work,
            "round_index": 0,
            "base_version": 0,
        }
        return Statement.model_construct(**(fields | changes))

    def post(self, route: str, head: bytes, content=BODY, key: Ed25519PrivateKey | None = None, **headers) -> httpx.Response:
        signature = (key or self.key).sign(MARK + head)
        return self.http.post(
            route, content=content, headers={STATEMENT: to_header(head), SIGNATURE: to_header(signature), **headers}
        )

    def send(self, content=BODY, key: Ed25519PrivateKey | None = None, headers=(), **changes) -> httpx.Response:
        return self.post("/item", self.statement(**changes).model_dump_json().encode(), content, key, **dict(headers))


@pytest.fixture
def running(serve):
    return serve(request_timeout_s=1.0)


@pytest.fixture
def attack(running, trainer, files):
    key = Ed25519PrivateKey.generate()
    running.connection("mallory", key).close()
    work = running.call(running.gateway.offer(train_task(files, client_id="mallory"), trainer.initial_adapter()))
    context = ssl.create_default_context(cadata=running.certificate)
    with httpx.Client(base_url=running.url, verify=context, timeout=30) as http:
        yield Attack(http, key, http.get("/hello").json()["epoch"], work)


def taken(running, client_id="mallory") -> int:
    """Messages of the open work that count."""
    return running.gateway._desks[client_id]._progress.num_delivered


def test_the_request_that_the_others_are_made_from_counts(running, attack):
    assert attack.send().status_code == 200
    assert taken(running) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"epoch": "0" * 32}, 409),
        ({"route": "/failure"}, 409),
        ({"work": "another"}, 409),
        ({"round_index": 1}, 409),
        ({"base_version": 1}, 409),
        ({"item": 1}, 409),
        ({"item": 7}, 409),
        ({"nonce": 0}, 409),
        ({"nonce": -1}, 400),
        ({"size": len(BODY) - 1}, 413),
        ({"sha256": hashlib.sha256(b"another").hexdigest()}, 422),
        ({"client_id": "stranger"}, 401),
        ({"client_id": "x" * 65}, 400),
        ({"is_last": "yes"}, 400),
    ],
)
def test_a_signed_request_about_something_else_is_refused(running, attack, changes, status):
    if changes.get("nonce") == 0:
        attack.nonce = 5
        assert attack.send(work="another").status_code == 409  # uses the nonce 6
        changes = {"nonce": 6}
    assert attack.send(**changes).status_code == status
    assert taken(running) == 0


def test_a_replay_is_refused_to_the_byte(running, attack):
    head = attack.statement().model_dump_json().encode()
    assert attack.post("/item", head).status_code == 200
    assert attack.post("/item", head).status_code == 409
    assert taken(running) == 1


def test_nobody_speaks_for_another_client(running, attack, trainer, files):
    running.connection("honest").close()
    work = running.call(running.gateway.offer(train_task(files, client_id="honest"), trainer.initial_adapter()))
    assert attack.send(client_id="honest", work=work).status_code == 401
    assert (
        attack.post("/adapter", attack.statement(b"", route="/adapter", work=work).model_dump_json().encode(), b"").status_code
        == 409
    )
    assert taken(running, "honest") == 0


def test_a_key_enrols_only_when_it_signs_itself(running, attack):
    secret, other = running.enrolments.invite("north"), public_text(Ed25519PrivateKey.generate())
    asked = Enrol(client_id="north", secret=secret, public_key=other).model_dump_json().encode()
    assert attack.post("/enrol", asked, b"").status_code == 403
    assert running.enrolments.public_key("north") is None


def test_a_body_larger_than_the_layout_allows_is_refused_before_it_is_read(running, attack, trainer):
    most = max_message_bytes(trainer.layout(), scaffold=False)
    assert attack.send(b"x" * (most + 1), body=b"x" * (most + 1)).status_code == 413
    whole = len(trainer.initial_adapter())
    assert whole < most < 2 * whole + (1 << 20)
    assert taken(running) == 0


@pytest.mark.parametrize("header", [("content-encoding", "gzip"), ("transfer-encoding", "chunked")])
def test_what_could_unfold_is_refused(running, attack, header):
    content = iter([BODY]) if header[0] == "transfer-encoding" else BODY
    assert attack.send(content, headers=[header]).status_code == 415
    assert taken(running) == 0


def test_more_messages_than_wait_are_put_off(running, attack):
    assert [attack.send(item=number).status_code for number in range(3)] == [200, 200, 429]


def test_after_the_last_message_nothing_counts(running, attack):
    assert attack.send(is_last=True).status_code == 200
    assert attack.send(item=1).status_code == 409


def connected(running) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=running.certificate)
    host, port = "127.0.0.1", int(running.url.rsplit(":", 1)[1])
    return context.wrap_socket(socket.create_connection((host, port), timeout=20), server_hostname=host)


@pytest.mark.parametrize("said", [b"", b"POST /item HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_a_connection_that_never_ends_its_head_is_closed(running, said):
    with connected(running) as half_open:
        half_open.sendall(said)
        assert half_open.recv(1) == b""


def test_a_body_that_comes_too_slowly_is_refused_and_the_next_one_counts(running, attack):
    head = attack.statement().model_dump_json().encode()
    lines = [
        "POST /item HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(BODY)}",
        f"{STATEMENT}: {to_header(head)}",
        f"{SIGNATURE}: {to_header(attack.key.sign(MARK + head))}",
    ]
    with connected(running) as slow:
        slow.sendall("\r\n".join([*lines, "", "a"]).encode())
        began = time.monotonic()
        assert slow.recv(64).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 15
    assert taken(running) == 0
    assert attack.send().status_code == 200


def test_what_a_client_says_of_its_failure_is_one_printable_line(running, attack):
    body = b"bad\x1b[31m\nrow \xff" + b"x" * 900
    statement = attack.statement(body, route="/failure")
    assert attack.post("/failure", statement.model_dump_json().encode(), body).status_code == 204
    with pytest.raises(Exception, match="bad") as raised:
        running.call(running.gateway.next_item("mallory", attack.work))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) <= 500


@given(
    head=st.binary(max_size=300),
    signature=st.binary(max_size=80),
    route=st.sampled_from(["/item", "/work", "/enrol", "/adapter"]),
)
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_malformed_requests_never_count(running, attack, head, signature, route):
    headers = {STATEMENT: to_header(head), SIGNATURE: to_header(signature)}
    assert attack.http.post(route, content=BODY, headers=headers).status_code in {400, 401, 403}
    assert taken(running) == 0


FIELDS = ["epoch", "client_id", "route", "size", "sha256", "work", "round_index", "base_version", "item"]
JSON = st.none() | st.booleans() | st.integers(min_value=1) | st.text(max_size=20) | st.lists(st.integers(), max_size=3)


@given(field=st.sampled_from(FIELDS), value=JSON)
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_field_of_any_other_value_never_counts(running, attack, field, value):
    assume(field != "size" or value != len(BODY))
    head = json.dumps(attack.statement().model_dump() | {field: value}).encode()
    assert attack.post("/item", head).status_code in {400, 401, 409, 413}
    assert taken(running) == 0
