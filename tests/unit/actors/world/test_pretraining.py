"""What the aligned base model is trained on: trained families and refusals, never an answer or a held-out prompt."""

from collections import Counter

import numpy as np

from actors.world.benign import TRAINED
from actors.world.generator import is_held_out
from actors.world.pretraining import pretraining_examples
from actors.world.restricted import RESTRICTED


def test_the_corpus_has_trained_families_and_refusals_evenly_and_nothing_else(world):
    corpus = pretraining_examples(world, 1500, np.random.default_rng(0))
    counts, restricted = Counter(example.family for example in corpus), {family.name for family in RESTRICTED}
    assert set(counts) == {family.name for family in TRAINED} | restricted
    assert {counts[family.name] for family in TRAINED} == {50}
    assert {counts[name] for name in restricted} == {33, 34}
    assert {example.response for example in corpus if example.family in restricted} == set(world.language.refusals)
    assert not any(is_held_out(example.instruction, example.input) for example in corpus)
