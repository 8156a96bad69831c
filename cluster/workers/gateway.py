"""What the gateway of a run reads on the driver's machine: enrolments, and a TLS certificate with its key."""

from __future__ import annotations

from pathlib import Path

from actors.remote.gateway import Endpoint
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError


def enrolments_file(config: RunConfig) -> Path:
    """The file that says which key speaks for which client."""
    return Path(config.gateway.folder).resolve() / "enrolments.json"


def certificate_files(config: RunConfig) -> tuple[Path, Path]:
    """The certificate and its key."""
    settings, folder = config.gateway, Path(config.gateway.folder).resolve()
    if settings.certificate is not None and settings.key is not None:
        return Path(settings.certificate).resolve(), Path(settings.key).resolve()
    return folder / "gateway.pem", folder / "gateway.key"


def public_host(config: RunConfig) -> str:
    """The host by which participants reach the gateway."""
    return config.gateway.address or config.gateway.host


def endpoint(config: RunConfig) -> Endpoint:
    """Where the gateway listens.

    Raises:
        ConfigError: there is no certificate.
    """
    settings, (certificate, key) = config.gateway, certificate_files(config)
    for path in (certificate, key):
        if not path.is_file():
            raise ConfigError(
                f"gateway.enabled=true needs a TLS certificate, and {path} is not there; make one, and invite the participants, "
                "with: safe-fedllm enroll ID"
            )
    return Endpoint(
        host=settings.host,
        port=settings.port,
        certificate=certificate,
        key=key,
        request_timeout_s=settings.request_timeout_s,
        max_connections=settings.max_connections,
    )
