"""Tokens without Ray: a gRPC server that asks for one, and one that does not."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cluster.errors import ClusterError
from cluster.ray_connection.authentication import asks_for_token, present_token

CALLS = {"ray.rpc.NodeInfoGcsService": "CheckAlive", "ray.rpc.RayletDriver": "ClusterInfo"}


def serve(token: str | None, service: str = "ray.rpc.NodeInfoGcsService"):
    """A server of one of Ray's services; with a token it refuses calls without that token, as Ray does."""

    def answer(request, context):
        if token is not None and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {CALLS[service]: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def closed():
    server, address = serve("secret")
    yield address
    server.stop(None)


def test_a_head_that_refuses_calls_without_a_token_asks_for_one(closed):
    server, address = serve(None)
    assert asks_for_token(closed)
    assert not asks_for_token(address)
    present_token(address)
    server.stop(None)


def test_a_server_of_ray_clients_is_asked_with_a_call_that_it_knows():
    server, address = serve("secret", "ray.rpc.RayletDriver")
    assert asks_for_token(f"ray://{address}")
    with pytest.raises(ClusterError, match="no Ray head answers there"):
        asks_for_token(address)
    server.stop(None)


def test_the_right_token_is_sent_unless_that_was_forbidden(closed, monkeypatch):
    sent = []
    monkeypatch.setattr("cluster.ray_connection.authentication.send_token", lambda: sent.append("token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    present_token(closed)
    assert sent == ["token"]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    present_token(closed)
    assert sent == ["token"]  # Ray sends it already
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE=disabled is set here: unset it"):
        present_token(closed)


def test_a_token_is_not_sent_to_a_head_that_asks_for_none(monkeypatch):
    server, address = serve(None)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    present_token(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match="asks for no token, and RAY_AUTH_MODE=token is set here"):
        present_token(address)
    server.stop(None)


def test_no_token_and_a_wrong_one_are_told_apart(closed, monkeypatch):
    with pytest.raises(ClusterError, match=r"asks for a token and this machine has none: .*`ray get-auth-token`"):
        present_token(closed)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "other")
    with pytest.raises(ClusterError, match="refuses this machine's token, which is not the head's"):
        present_token(closed)


def test_where_nothing_answers_the_right_kind_of_address_is_named():
    with pytest.raises(ClusterError, match=r"cluster.address=127.0.0.1:9: no Ray head answers .* not the dashboard's"):
        present_token("127.0.0.1:9")


def test_tls_files_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    monkeypatch.setenv("RAY_TLS_CA_CERT", "/nowhere.crt")
    with pytest.raises(ClusterError, match=r"/nowhere\.crt.* cannot be read; set RAY_TLS_CA_CERT"):
        present_token("127.0.0.1:9")
