"""A participant and a gateway over TLS on loopback, against a local client with the same data."""

import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors.errors import ClientTrainingError, GatewayError, ModelError
from actors.messages import LoRAUpdate, StepDelta
from actors.remote.connection import Connection, Ended
from actors.remote.keys import make_certificate
from actors.remote.participant import Participant
from actors.wire import decode_message
from actors.world.datasets import write_parquet
from actors.world.generator import draw
from tests.unit.actors.builders import train_task
from tests.unit.actors.sent import equal


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """Twenty rows of the shipped world: what `files` holds, not encoded."""
    examples = draw(world.benign_example, world.roles["federation"].benign, 20, np.random.default_rng(0))
    return write_parquet(tmp_path_factory.mktemp("own") / "my.parquet", examples)


@pytest.fixture
def take_part(base_config, data, tmp_path):
    """Lets a participant run in a thread; `join` waits for its end."""

    def start(connection, model=None) -> threading.Thread:
        participant = Participant(connection, model or str(base_config.path), [data], tmp_path / "participant")
        thread = threading.Thread(target=participant.run, daemon=True)
        thread.start()
        return thread

    return start


def items(running, task, adapter, num_delivered=0):
    """What the server takes of one task."""
    work, taken, is_last = running.call(running.gateway.offer(task, adapter, None, num_delivered)), [], False
    while not is_last:
        item, is_last = running.call(running.gateway.next_item(task.client_id, work))
        taken.append(item)
    return taken


def test_a_participant_sends_what_a_local_client_with_its_data_sends_to_the_bit(serve, take_part, trainer, files):
    running, start = serve(), trainer.initial_adapter()
    task = train_task(files, client_id="north", round_index=2, base_version=1)
    local, thread = [*trainer.train(task, start)], take_part(running.connection("north"))
    remote = items(running, task, start)
    assert remote[:-1] == local[:-1]
    for payload in remote[:-1]:
        assert decode_message(payload, StepDelta).client_id == "north"
    assert equal(decode_message(remote[-1], LoRAUpdate).tensors, decode_message(local[-1], LoRAUpdate).tensors)
    running.call(running.gateway.end())
    thread.join(60)
    assert not thread.is_alive()


def test_work_that_is_laid_down_again_yields_what_is_missing(serve, take_part, trainer, files):
    running, start = serve(), trainer.initial_adapter()
    task = train_task(files, client_id="north")
    take_part(running.connection("north"))
    whole, rest = items(running, task, start), items(running, task, start, num_delivered=2)
    assert rest[:-1] == whole[2:-1]
    assert len(rest) == len(whole) - 2
    running.call(running.gateway.end())


def test_data_and_work_never_show_the_servers_paths(serve, trainer, files):
    running, task = serve(), train_task(files, client_id="north")
    running.call(running.gateway.offer(task, trainer.initial_adapter()))
    offer = running.connection("north").wait_for_work()
    assert offer.task.files == ()
    assert offer.settings.model.path is None


def test_a_participant_with_another_base_model_says_so_and_trains_nothing(serve, tiny_base, data, tmp_path, trainer, files):
    running, task = serve(), train_task(files, client_id="north")
    participant = Participant(running.connection("north"), str(tiny_base), [data], tmp_path / "participant")
    work = running.call(running.gateway.offer(task, trainer.initial_adapter()))
    with pytest.raises(ModelError, match="--model"):
        participant.run()
    with pytest.raises(ClientTrainingError, match="holds base model"):
        running.call(running.gateway.next_item("north", work))


def test_the_server_that_shows_another_certificate_is_not_spoken_to(serve, certificate, tmp_path):
    running = serve()
    make_certificate("127.0.0.1", tmp_path / "other.pem", tmp_path / "other.key")
    other = Connection(running.url, (tmp_path / "other.pem").read_text(), "north", Ed25519PrivateKey.generate())
    with pytest.raises(GatewayError, match="certificate"):
        other.wait_for_work()


def test_who_is_revoked_is_refused_from_the_next_request_on(serve):
    running = serve()
    connection = running.connection("north")
    running.enrolments.revoke("north")
    with pytest.raises(GatewayError, match="no such key"):
        connection.wait_for_work()


def test_the_end_reaches_who_waits_for_work(serve):
    running = serve()
    connection, seen = running.connection("north"), []

    def wait() -> None:
        try:
            connection.wait_for_work()
        except Ended:
            seen.append("ended")

    thread = threading.Thread(target=wait)
    thread.start()
    running.call(running.gateway.end())
    thread.join(30)
    assert seen == ["ended"]
