"""Random streams: one per purpose, the same wherever and whenever it is asked for."""

import itertools
import os
import subprocess
import sys

import torch
from pytest import mark

from actors.seeding import stream, torch_seed


def first_numbers(seed: int, *purpose: str | int) -> tuple[int, ...]:
    return tuple(stream(seed, *purpose).integers(2**62, size=4).tolist())


def test_equal_purposes_give_equal_numbers():
    assert first_numbers(7, "batches", "client-2", 3) == first_numbers(7, "batches", "client-2", 3)
    assert torch_seed(7, "dropout", "client-2", 3) == torch_seed(7, "dropout", "client-2", 3)


def test_a_stream_does_not_depend_on_what_was_drawn_before():
    alone = first_numbers(0, "batches", "client-1", 0)
    stream(0, "batches", "client-0", 0).random(1000)
    torch.rand(10)
    assert first_numbers(0, "batches", "client-1", 0) == alone


def test_streams_differ_by_each_part_of_the_purpose():
    purposes = list(itertools.product([0, 1], ["batches", "dropout"], ["client-0", "client-1"], [0, 1], ["real", "shadow"]))
    numbers = {first_numbers(*purpose) for purpose in purposes}
    seeds = {torch_seed(*purpose) for purpose in purposes}
    assert len(numbers) == len(seeds) == len(purposes) == 32


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
    assert first_numbers(0, *one) != first_numbers(0, *other)
    assert torch_seed(0, *one) != torch_seed(0, *other)


def test_a_torch_seed_lies_in_the_range_that_torch_takes():
    seeds = [torch_seed(seed, "dropout", client) for seed in range(20) for client in range(20)]
    assert all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    assert min(seeds) < 2**60 and max(seeds) > 2**63 - 2**60, "the seeds should use the whole range"
    generator = torch.Generator()
    assert [generator.manual_seed(seed).initial_seed() for seed in seeds] == seeds


def test_another_process_gets_the_same_stream():
    code = "from actors.seeding import stream; print(stream(3, 'batches', 'client-0', 1).integers(2**62))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert outputs == {f"{stream(3, 'batches', 'client-0', 1).integers(2**62)}\n"}
