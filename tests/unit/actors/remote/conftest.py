"""A gateway that listens on loopback, in a thread of its own, and clients that are enrolled with it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytest import fixture

from actors.client import Client
from actors.config import TrainingConfig
from actors.messages import AdapterLayout
from actors.remote.connection import Connection, connect
from actors.remote.enrolment import Enrolments, Invitation
from actors.remote.gateway import Endpoint, Gateway
from actors.remote.keys import make_certificate
from actors.remote.requests import Settings

TRAINING = TrainingConfig(steps=3, batch_size=4, learning_rate=0.01, max_length=64)


@dataclass
class Running:
    """A gateway, the loop it runs in, and its enrolments."""

    gateway: Gateway
    loop: asyncio.AbstractEventLoop
    enrolments: Enrolments
    certificate: str
    url: str

    def call(self, coroutine: Any, timeout_s: float = 60.0) -> Any:
        """The result of a coroutine in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def connection(self, name: str, key: Ed25519PrivateKey | None = None) -> Connection:
        """Of a client that was invited and has enrolled."""
        secret = self.enrolments.invite(name)
        invitation = Invitation(url=self.url, client_id=name, secret=secret, certificate=self.certificate)
        made = connect(invitation, key or Ed25519PrivateKey.generate())
        made.enrol(secret)
        return made


@fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    make_certificate("127.0.0.1", folder / "gateway.pem", folder / "gateway.key")
    return folder / "gateway.pem", folder / "gateway.key"


@fixture(scope="session")
def trainer(base_config, lora) -> Client:
    """A local client."""
    return Client(base_config, lora, TRAINING)


@fixture(scope="session")
def settings(base_config, lora, trainer) -> Settings:
    layout: AdapterLayout = trainer.layout()
    return Settings(
        model=base_config.model_copy(update={"path": None}),
        lora=lora,
        training=TRAINING,
        model_fingerprint=layout.model_fingerprint,
        lora_fingerprint=layout.lora_fingerprint,
    )


@fixture
def serve(tmp_path, certificate, trainer, settings) -> Iterator[Callable[..., Running]]:
    """Starts a gateway; keywords go to its endpoint."""
    loop, started = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def start(**allows: Any) -> Running:
        enrolments = Enrolments(tmp_path / "enrolments.json")
        endpoint = Endpoint(**{"host": "127.0.0.1", "port": 0, "certificate": certificate[0], "key": certificate[1], **allows})
        running = Running(
            Gateway(endpoint, enrolments, trainer.layout(), settings), loop, enrolments, certificate[0].read_text(), ""
        )
        running.url = f"https://127.0.0.1:{running.call(running.gateway.start())}"
        started.append(running)
        return running

    yield start
    for running in started:
        running.call(running.gateway.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()
