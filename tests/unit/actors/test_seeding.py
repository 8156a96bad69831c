"""Random streams: one per purpose, the same wherever and whenever it is asked for."""

import itertools
import os
import subprocess
import sys

import torch
from pytest import mark

from actors.seeding import stream, torch_seed


def drawn(seed: int, *purpose: str | int) -> tuple[int, ...]:
    """What both kinds of stream give first."""
    return (*stream(seed, *purpose).integers(2**62, size=2).tolist(), torch_seed(seed, *purpose))


def test_a_stream_is_the_same_whatever_was_drawn_before():
    alone = drawn(0, "batches", "client-1", 0)
    stream(0, "batches", "client-0", 0).random(1000)
    torch.rand(10)
    assert drawn(0, "batches", "client-1", 0) == alone


def test_streams_differ_by_each_part_of_the_purpose():
    purposes = list(itertools.product([0, 1], ["batches", "dropout"], ["client-0", "client-1"], [0, 1], ["real", "shadow"]))
    numbers = [drawn(*purpose) for purpose in purposes]
    assert len({first for first, _, _ in numbers}) == len({seed for _, _, seed in numbers}) == len(purposes) == 32


@mark.parametrize(
    ("one", "other"),
    [
        (("a", 1), ("a1",)),
        (("a", 1), ("a", "1")),
        (("a", "b"), ("ab",)),
        (("a", "b"), ("astr:b",)),
        (("a", "b"), ("b", "a")),
        (("a", 12), ("a", 1, 2)),
        (("a", ""), ("a",)),
        (("a",), ()),
    ],
)
def test_purposes_that_read_alike_have_streams_of_their_own(one, other):
    assert drawn(0, *one) != drawn(0, *other)


def test_a_torch_seed_uses_the_whole_range_that_torch_takes():
    seeds = [torch_seed(seed, "dropout", client) for seed in range(20) for client in range(20)]
    assert all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    assert min(seeds) < 2**60 and max(seeds) > 2**63 - 2**60


def test_another_process_gets_the_same_stream():
    code = "from actors.seeding import stream; print(stream(3, 'batches', 'client-0', 1).integers(2**62))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{stream(3, 'batches', 'client-0', 1).integers(2**62)}\n"
