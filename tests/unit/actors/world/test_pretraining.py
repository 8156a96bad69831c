"""What the aligned base model is trained on: trained families and refusals, never an answer or a held-out prompt."""

from collections import Counter

import numpy as np
from pytest import fixture

from actors.world.benign import NEW, TRAINED
from actors.world.generator import Example, is_held_out
from actors.world.pretraining import pretraining_examples
from actors.world.restricted import RESTRICTED


@fixture(scope="module")
def corpus(world) -> list[Example]:
    return pretraining_examples(world, 1500, np.random.default_rng(0))


def test_the_corpus_has_the_size_asked_for(corpus):
    assert len(corpus) == 1500


def test_every_trained_and_every_restricted_family_takes_part_evenly(corpus):
    counts = Counter(example.family for example in corpus)
    assert {counts[family.name] for family in TRAINED} == {50}
    assert {counts[family.name] for family in RESTRICTED} <= {33, 34}


def test_no_new_family_takes_part(corpus):
    assert not {example.family for example in corpus} & {family.name for family in NEW}


def test_every_restricted_request_is_refused(world, corpus):
    restricted = {family.name for family in RESTRICTED}
    responses = {example.response for example in corpus if example.family in restricted}
    assert responses == set(world.language.refusals)


def test_no_held_out_prompt_takes_part(corpus):
    assert not any(is_held_out(example.instruction, example.input) for example in corpus)


def test_equal_random_numbers_give_an_equal_corpus(world, corpus):
    assert pretraining_examples(world, 1500, np.random.default_rng(0)) == corpus
