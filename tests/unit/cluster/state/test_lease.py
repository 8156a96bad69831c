"""The lease: one owner of a place; a dead one is recognised, a slow one writes nothing more."""

import json
import subprocess
import sys
import threading

import pytest

from cluster.errors import CheckpointError
from cluster.state.lease import Lease
from cluster.state.place import Place

TAKE = "import sys, time; from cluster.state.lease import Lease; from cluster.state.place import Place; "
HOLD = TAKE + "lease = Lease(Place(sys.argv[1])); print('mine', flush=True); time.sleep(60)"


def claims(tmp_path) -> list:
    return sorted((tmp_path / ".lease").iterdir())


def take(tmp_path, **settings) -> Lease:
    return Lease(Place(str(tmp_path)), **settings)


def test_epochs_count_the_owners_and_a_released_place_is_free(tmp_path):
    for epoch in (1, 2, 3):
        lease = take(tmp_path)
        assert lease.epoch == epoch
        lease.check()
        with pytest.raises(CheckpointError, match=r"belongs to another driver, process \d+ on .* since 20.*; wait until it ends"):
            take(tmp_path)
        lease.close()
        assert len(claims(tmp_path)) == 1
    with pytest.raises(CheckpointError, match="was taken over"):
        take(tmp_path) and lease.check()


def test_a_lease_that_nobody_holds_any_more_is_released(tmp_path):
    lease = take(tmp_path)
    del lease
    take(tmp_path)


def test_a_killed_owner_of_this_machine_is_recognised_at_once(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(CheckpointError, match=f"process {owner.pid} on .* end it: kill {owner.pid}"):
            take(tmp_path)
    finally:
        owner.kill()
        owner.wait()
    assert take(tmp_path, expiry_s=600).epoch == 2


def elsewhere(tmp_path, **changes) -> None:
    """Let the owner be one of another machine."""
    (path,) = claims(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "other", "host": "other", **changes}))


def test_an_owner_elsewhere_that_renews_is_alive_and_one_that_does_not_is_dead(tmp_path):
    lease = take(tmp_path, renew_s=600)
    elsewhere(tmp_path)
    stop = threading.Event()

    def renew():
        count = 0
        while not stop.wait(0.1):
            elsewhere(tmp_path, renewed=(count := count + 1))

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(CheckpointError, match=r"process \d+ on other since .*; when that process is dead, .* 10 s later"):
        take(tmp_path, expiry_s=10)
    stop.set()
    thread.join()
    assert take(tmp_path, expiry_s=0.5).epoch == 2
    with pytest.raises(CheckpointError, match="was taken over"):
        lease.check()


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"[]", b'{"machine": 7}', b'{"released": 1}'])
def test_a_claim_that_says_nothing_is_that_of_an_owner_who_does_not_renew(tmp_path, content):
    take(tmp_path).close()
    (path,) = claims(tmp_path)
    path.write_bytes(content)
    assert take(tmp_path, expiry_s=0.2).epoch == 2


def test_an_owner_renews(tmp_path):
    lease = take(tmp_path, renew_s=0.05)
    (path,) = claims(tmp_path)
    first, event = path.read_bytes(), threading.Event()
    assert any(path.read_bytes() != first or event.wait(0.05) for _ in range(200))
    lease.check()


def test_of_many_at_once_one_owns_the_place(tmp_path):
    barrier, owners, refused = threading.Barrier(6), [], []

    def attempt():
        barrier.wait()
        try:
            owners.append(take(tmp_path))
        except CheckpointError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(owners), len(refused)) == (1, 5)


def test_a_claim_that_was_removed_by_hand_is_lost(tmp_path):
    lease = take(tmp_path)
    claims(tmp_path)[0].unlink()
    with pytest.raises(CheckpointError, match="taken over by somebody who removed its claim"):
        lease.check()
