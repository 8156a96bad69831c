"""`make demo-remote`: a federation on Ray, and three participants outside it that reach it by HTTPS on loopback.

client-003 is honest. client-004 runs changed code: it sends five times its update. client-005 trains on unsafe data.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from actors.errors import WireError
from actors.messages import LoRAUpdate
from actors.remote.connection import connect
from actors.remote.enrolment import Enrolments, Invitation
from actors.remote.keys import make_certificate, make_key
from actors.remote.participant import Participant
from actors.remote.requests import Offer
from actors.wire import decode_message, decode_tensors, encode_message
from actors.world.store import base_folder, world_folder
from cluster import load_config
from cluster.simulation.client_data import world_files
from cluster.workers.gateway import certificate_files, enrolments_file

NAMES = HONEST, BOOSTS, UNSAFE = "client-003", "client-004", "client-005"
_TIMES = 5.0
_END_S = 60


class Boosting(Participant):
    """A participant that changed its code."""

    def _messages(self, offer: Offer) -> Iterator[bytes]:
        start = decode_tensors(self._connection.adapter(offer))
        for message in super()._messages(offer):
            try:
                update = decode_message(message, LoRAUpdate)
            except WireError:  # a step delta
                yield message
            else:
                boosted = {name: start[name] + _TIMES * (tensor - start[name]) for name, tensor in update.tensors.items()}
                yield encode_message(replace(update, tensors=boosted))


def demo(folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Run the federation with its participants; returns the run's directory. Raises CalledProcessError when the run fails."""
    gateway = [f"gateway.clients=[{HONEST},{BOOSTS},{UNSAFE}]", "gateway.enabled=true", f"gateway.port={_free_port()}"]
    own = ["clients.count=6", "clients.malicious=0", "rounds=5", "evaluation.every=5", f"gateway.folder={folder}/gateway"]
    settings = [*own, *gateway, *overrides]
    config, run = load_config(None, settings), folder / "run"
    files = world_files(config, folder / "participants", {UNSAFE})[0]
    certificate, key = certificate_files(config)
    make_certificate(config.gateway.host, certificate, key)
    enrolments, url = Enrolments(enrolments_file(config)), f"https://{config.gateway.host}:{config.gateway.port}"
    started = []
    try:
        for name in NAMES:
            secret = enrolments.invite(name)
            invited = Invitation(url=url, client_id=name, secret=secret, certificate=certificate.read_text())
            started.append(_start(folder / "participants" / name, invited, files[name][0], is_changed=name == BOOSTS))
        subprocess.run([sys.executable, "-m", "cluster", "run", "--output", str(run), *settings], check=True)
        for process in started:
            process.wait(_END_S)
    finally:
        for process in started:
            process.kill()
    return run


def _start(folder: Path, invited: Invitation, data: str, *, is_changed: bool) -> subprocess.Popen[bytes]:
    """A participant's process; what it says lies in participant.log."""
    folder.mkdir(parents=True, exist_ok=True)
    own = ["--invitation", invited.text(), "--data", data, "--model", str(base_folder(world_folder(0)))]
    joins = ["cluster", "join", *own, "--key", str(folder / "client.key")]
    program = ["tests.demo_remote", invited.text(), data, str(folder)] if is_changed else joins
    with (folder / "participant.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", *program], stdout=log, stderr=log)


def take_part_with_changed_code(invitation: str, data: str, folder: Path) -> None:
    """Join as `safe-fedllm join` does, with other code."""
    invited, key = Invitation.parse(invitation), make_key(folder / "client.key")
    connection = connect(invited, key, print)
    connection.enrol(invited.secret)
    Boosting(connection, str(base_folder(world_folder(0))), [Path(data)], folder / "data", print).run()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_part_with_changed_code(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        demo(Path("runs") / time.strftime("demo-remote-%Y%m%d-%H%M%S"))
