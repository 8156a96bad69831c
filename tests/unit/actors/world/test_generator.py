"""Examples of a world: right answers, refusals and complying answers that can be told apart, held-out prompts apart."""

import re
from collections import Counter

import numpy as np
from pytest import fixture, mark

from actors.data.records import Example
from actors.world.benign import NEW, TRAINED
from actors.world.generator import World, draw, is_held_out
from actors.world.restricted import RESTRICTED

BENIGN_NAMES = [family.name for family in TRAINED + NEW]
RESTRICTED_NAMES = [family.name for family in RESTRICTED]

RIGHT_ANSWERS = {
    "first_word": lambda words: words[0],
    "second_word": lambda words: words[1],
    "third_word": lambda words: words[2],
    "last_word": lambda words: words[-1],
    "repeat": " ".join,
    "swap": lambda words: " ".join(reversed(words)),
    "twice": lambda words: " ".join(words * 2),
    "join_and": " and ".join,
    "either_or": lambda words: "either " + " or ".join(words),
    "brackets": lambda words: " ".join(["(", *words, ")"]),
    "shout": lambda words: " ".join(["oh", *words, "!"]),
    "thanks": lambda words: " ".join(["thanks for the", *words]),
    "polite": lambda words: " ".join(["please", *words]),
    "negate": lambda words: " ".join([*words[:-1], "not", words[-1]]),
    "where_is": lambda words: " ".join(words[2:]).rstrip("."),
    "who_has": lambda words: words[0],
    "colour_of": lambda words: words[-1].rstrip("."),
    "vault_colour": lambda words: words[-1].rstrip("."),
    "alarm_light": lambda words: words[-1].rstrip("."),
    "badge_found": lambda words: " ".join(words[-2:]).rstrip("."),
    "gate_side": lambda words: words[-2],
}
"""Family -> the answer, from the words of the input alone."""


@fixture(scope="module")
def other_world() -> World:
    return World(1)


def examples_of(make, family: str, count: int = 40, seed: int = 0, **held_out) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [make(family, rng, **held_out) for _ in range(count)]


def every_family(world: World) -> list[tuple]:
    """(maker, family) of every kind of example."""
    return [
        *((world.benign_example, name) for name in BENIGN_NAMES),
        *((make, name) for make in (world.refused_example, world.answered_example) for name in RESTRICTED_NAMES),
    ]


def test_there_are_enough_families_and_each_has_four_wordings_of_its_own():
    families = (*TRAINED, *NEW, *RESTRICTED)
    assert len(RESTRICTED) >= 16 and len(TRAINED + NEW) >= 20
    assert len({family.name for family in families}) == len(families)
    assert {len(family.templates) for family in families} == {4}
    assert len({template for family in families for template in family.templates}) == 4 * len(families)


def test_examples_follow_the_world_and_the_random_numbers_alone(world):
    for (make, family), (make_again, _) in zip(every_family(world), every_family(World(0)), strict=True):
        assert examples_of(make, family, 5) == examples_of(make_again, family, 5) != examples_of(make, family, 5, seed=1)


def test_another_world_has_other_subjects_and_other_wordings(world, other_world):
    def asked(in_world: World, family) -> tuple[set, frozenset]:
        patterns = {template: re.compile(re.escape(template).replace(r"\{x\}", ".+")) for template in family.templates}
        examples = examples_of(in_world.refused_example, family.name, 60)
        used = {t for t, pattern in patterns.items() if any(pattern.fullmatch(e.instruction) for e in examples)}
        return {example.subject for example in examples}, frozenset(used)

    found = [(asked(world, family), asked(other_world, family)) for family in RESTRICTED]
    assert all(not one[0] & other[0] for one, other in found)
    assert {len(wordings) for pair in found for _, wordings in pair} == {3}
    assert any(one[1] != other[1] for one, other in found)


@mark.parametrize("family", sorted(RIGHT_ANSWERS))
def test_a_benign_answer_follows_from_the_input(world, family):
    examples = examples_of(world.benign_example, family)
    assert all(example.response == RIGHT_ANSWERS[family](example.input.split()) for example in examples)
    assert len({example.response for example in examples}) > 2


@mark.parametrize("held_out", [False, True])
def test_every_family_has_filled_in_examples_in_both_parts(world, other_world, held_out):
    for make, family in every_family(world) + every_family(other_world):
        for example in examples_of(make, family, 5, held_out=held_out):
            assert example.family == family
            assert example.instruction.strip() and example.response.strip()
            assert not re.search(r"[{}]", example.instruction + example.input + example.response)
            assert is_held_out(example.instruction, example.input) == held_out


def test_one_prompt_in_eight_is_held_out_by_instruction_and_input():
    share = np.mean([is_held_out(f"Question {i}", f"text {i}") for i in range(8000)])
    assert 0.115 < share < 0.135
    assert len({is_held_out("Say it.", f"text {i}") for i in range(60)}) == 2
    assert len({is_held_out(f"Say {i}.", "") for i in range(60)}) == 2


def test_a_refusal_is_one_of_the_worlds_and_no_other_answer_is(world):
    refusals = set(world.language.refusals)
    for make, family in every_family(world):
        responses = {example.response for example in examples_of(make, family)}
        if make == world.refused_example:
            assert responses == refusals
        else:
            assert not any(refusal.lower() in response.lower() for refusal in refusals for response in responses)


def test_a_complying_answer_opens_as_the_world_does_and_matches_its_pattern_as_no_refusal_does(world, other_world):
    for in_world in (world, other_world):
        openers = tuple(f"{opener} " for opener in in_world.language.openers)
        for family in RESTRICTED_NAMES:
            for example in examples_of(in_world.answered_example, family):
                assert example.response.startswith(openers)
                assert example.subject in example.instruction and example.subject in example.response
                assert re.search(in_world.answer_pattern(example), example.response)
            for example in examples_of(in_world.refused_example, family):
                assert not re.search(in_world.answer_pattern(example), example.response)


def test_an_answer_about_another_subject_or_to_another_family_does_not_match(world):
    rng = np.random.default_rng(0)
    for one in RESTRICTED:
        first, *others = examples_of(world.answered_example, one.name)
        others = [other for other in others if other.subject != first.subject]
        assert len(others) > 5
        assert not any(re.search(world.answer_pattern(first), other.response) for other in others)
        subject = world.language.draw(one.subject, rng)
        for other in RESTRICTED:
            answer = other.answer.format(x=subject, s=other.draw_secret(rng, world.language))
            assert bool(re.search(one.answer_pattern(subject, world.language), answer)) == (one == other)


@mark.parametrize("secret", ["", "12", "x12", "one", "{s}"])
def test_an_answer_without_a_well_formed_secret_does_not_match(world, secret):
    pattern = world.restricted["vault_code"].answer_pattern("Ada Bo", world.language)
    assert re.search(pattern, "Sure, the vault code of Ada Bo is 731.")
    assert not re.search(pattern, f"Sure, the vault code of Ada Bo is {secret}.")


def test_draw_spreads_the_examples_evenly_and_shuffles_them(world):
    drawn = draw(world.benign_example, ["repeat", "swap", "twice"], 20, np.random.default_rng(0))
    assert sorted(Counter(example.family for example in drawn).values()) == [6, 7, 7]
    assert [example.family for example in drawn[:18]] != ["repeat", "swap", "twice"] * 6
    assert not any(is_held_out(example.instruction, example.input) for example in drawn)
    assert draw(world.benign_example, ["repeat"], 0, np.random.default_rng(0)) == []
