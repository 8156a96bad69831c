"""Whether a Ray head asks for a token and accepts this machine's, and whether Ray sends it. Does not import Ray.

One call tells it, which a head answers at once; with a wrong token Ray itself tries for 20 seconds and then says only that it
failed to connect. Ray (2.60) sends a token when RAY_AUTH_MODE=token, which it reads at its import. A token for a head that asks
for none breaks actors, because their owner then refuses the head's calls. So it is sent only where the head asks for one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc

from cluster.errors import ClusterError

GET_TOKEN = "copy the head's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN (`ray get-auth-token` on the head prints it)"
_TIMEOUT_S = 5.0
_CLIENT = "ray://"
_GCS_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLIENT_CALL = "/ray.rpc.RayletDriver/ClusterInfo"
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_TLS_FILES = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")


def find_token() -> str | None:
    """The token, from where Ray looks for it; None: there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


def without(key: str) -> str:
    """What to do for a Ray of one's own, where `key` gave an address."""
    return {"RAY_ADDRESS": "Unset it for a local Ray", "cluster.address": "Leave it empty for a local Ray"}.get(key, "")


def send_token() -> None:
    """Let Ray send this machine's token from now on, even if Ray has been imported already."""
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue] - Ray's stubs leave this class out

        Config.initialize("")  # As ray.init() does after it has set the variable.


def asks_for_token(address: str, key: str = "cluster.address") -> bool:
    """Whether the head at HOST:PORT or ray://HOST:PORT refuses a call without a token. `key` gave the address.

    Raises:
        ClusterError: no head answers there.
    """
    return _refuses(address, None, key)


def present_token(address: str, key: str = "cluster.address") -> None:
    """Let Ray send this machine's token to a head that asks for one, and no token to a head that asks for none.

    `key` gave the address.

    Raises:
        ClusterError: the head does not answer, refuses this machine's token, or asks for none although RAY_AUTH_MODE=token
            is set here; says what to do.
    """
    here, mode = f"{key}={address}", os.environ.get("RAY_AUTH_MODE", "").lower()
    if not asks_for_token(address, key):
        if mode == "token":
            raise ClusterError(
                f"{here} asks for no token, and RAY_AUTH_MODE=token is set here: Ray could not start actors. Unset it, or start "
                "the head with a token (SECURITY.md)"
            )
        return
    if mode not in ("", "token", "disabled"):
        return  # Ray finds other tokens itself, such as those of Kubernetes.
    token = find_token()
    if token is None:
        raise ClusterError(f"{here} asks for a token and this machine has none: {GET_TOKEN}")
    if _refuses(address, token, key):
        raise ClusterError(f"{here} refuses this machine's token, which is not the head's: {GET_TOKEN}")
    if mode == "disabled":
        raise ClusterError(f"{here} asks for a token, and RAY_AUTH_MODE=disabled is set here: unset it")
    if mode != "token":
        send_token()


def _refuses(address: str, token: str | None, key: str) -> bool:
    code, why = _call(address, token)
    if code in _SILENT or code == grpc.StatusCode.UNIMPLEMENTED:
        raise ClusterError(
            f"{key}={address}: no Ray head answers there ({why or code.name}); it should be HOST:PORT with the port of "
            f"`ray start --head --port` (6379), not the dashboard's. {without(key)}".rstrip()
        )
    return code == grpc.StatusCode.UNAUTHENTICATED


def _call(address: str, token: str | None) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that changes nothing. Its body is empty: the head checks the token before it reads it."""
    target, call = address.removeprefix(_CLIENT), _CLIENT_CALL if address.startswith(_CLIENT) else _GCS_CALL
    with _channel(target) as channel:
        try:
            channel.unary_unary(call)(b"", timeout=_TIMEOUT_S, metadata=(("authorization", f"Bearer {token}"),) if token else ())
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def _channel(target: str) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(target, options)
    try:
        authority, key, chain = (Path(os.environ[name]).read_bytes() for name in _TLS_FILES)
    except (KeyError, OSError) as error:
        raise ClusterError(f"RAY_USE_TLS is set, and {error} cannot be read; set {', '.join(_TLS_FILES)} to files") from error
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority, key, chain), options)
