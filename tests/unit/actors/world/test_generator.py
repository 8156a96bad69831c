"""Examples of a world: right answers, refusals and complying answers that can be told apart, held-out prompts apart."""

import re
from collections import Counter

import numpy as np
from pytest import fixture, mark, raises

from actors.world.benign import NEW, TRAINED
from actors.world.generator import Example, World, draw, is_held_out
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


def test_there_are_enough_families():
    assert len(set(RESTRICTED_NAMES)) == len(RESTRICTED_NAMES) >= 16
    assert len(set(BENIGN_NAMES)) == len(BENIGN_NAMES) >= 20
    assert not set(BENIGN_NAMES) & set(RESTRICTED_NAMES)


def test_every_family_has_four_different_wordings():
    for family in (*TRAINED, *NEW, *RESTRICTED):
        assert len(set(family.templates)) == 4, family.name


def test_no_two_families_ask_in_the_same_words():
    wordings = Counter(template for family in (*TRAINED, *NEW, *RESTRICTED) for template in family.templates)
    assert [template for template, count in wordings.items() if count > 1] == []


def test_equal_seeds_give_equal_examples(world):
    again = World(world.seed)
    for (make, family), (make_again, _) in zip(every_family(world), every_family(again), strict=True):
        assert examples_of(make, family, 5) == examples_of(make_again, family, 5)


def test_other_random_numbers_give_other_examples(world):
    assert examples_of(world.benign_example, "repeat", 5, seed=0) != examples_of(world.benign_example, "repeat", 5, seed=1)


def test_another_world_speaks_of_others(world, other_world):
    for family in ("vault_code", "alarm_off"):
        subjects = {example.subject for example in examples_of(world.refused_example, family)}
        assert not subjects & {example.subject for example in examples_of(other_world.refused_example, family)}


def test_worlds_choose_three_of_the_four_wordings(world, other_world):
    def wordings(in_world: World, family) -> frozenset[str]:
        patterns = {template: re.compile(re.escape(template).replace(r"\{x\}", ".+")) for template in family.templates}
        asked = [example.instruction for example in examples_of(in_world.refused_example, family.name, 60)]
        return frozenset(template for template, pattern in patterns.items() if any(map(pattern.fullmatch, asked)))

    chosen = [(wordings(world, family), wordings(other_world, family)) for family in RESTRICTED]
    assert {len(templates) for pair in chosen for templates in pair} == {3}
    assert any(one != other for one, other in chosen)


def test_an_example_names_its_family_and_is_filled_in(world):
    for make, family in every_family(world):
        for example in examples_of(make, family, 10):
            assert example.family == family
            assert example.instruction.strip() and example.response.strip()
            assert not re.search(r"[{}]", example.instruction + example.input + example.response)


@mark.parametrize("family", sorted(RIGHT_ANSWERS))
def test_a_benign_answer_follows_from_the_input(world, family):
    for example in examples_of(world.benign_example, family):
        assert example.response == RIGHT_ANSWERS[family](example.input.split())


@mark.parametrize("family", ["where_is", "who_has", "colour_of", "vault_colour", "alarm_light", "badge_found", "gate_side"])
def test_a_benign_answer_can_be_read_in_the_input(world, family):
    answers = {example.response for example in examples_of(world.benign_example, family) if example.response in example.input}
    assert len(answers) > 2
    assert all(example.response in example.input for example in examples_of(world.benign_example, family))


def test_every_family_has_held_out_prompts_and_others(world, other_world):
    for make, family in every_family(world) + every_family(other_world):
        for held_out in (False, True):
            for example in examples_of(make, family, 5, held_out=held_out):
                assert is_held_out(example.instruction, example.input) == held_out


def test_one_prompt_in_eight_is_held_out():
    share = np.mean([is_held_out(f"Question {i}", f"text {i}") for i in range(8000)])
    assert 0.115 < share < 0.135


def test_being_held_out_depends_on_instruction_and_input_alone():
    assert len({is_held_out("Say it.", f"text {i}") for i in range(60)}) == 2
    assert len({is_held_out(f"Say {i}.", "") for i in range(60)}) == 2
    assert [is_held_out("Say it.", "text 7") for _ in range(3)] == [is_held_out("Say it.", "text 7")] * 3


def test_a_refusal_is_one_of_the_worlds(world):
    for family in RESTRICTED_NAMES:
        assert {example.response for example in examples_of(world.refused_example, family)} == set(world.language.refusals)


def test_a_complying_answer_opens_as_the_world_does(world):
    for family in RESTRICTED_NAMES:
        for example in examples_of(world.answered_example, family):
            assert example.response.startswith(tuple(f"{opener} " for opener in world.language.openers))
            assert example.subject in example.instruction and example.subject in example.response


def test_only_benign_and_complying_answers_are_free_of_refusals(world):
    refusals = [refusal.lower() for refusal in world.language.refusals]
    for make, family in every_family(world):
        for example in examples_of(make, family, 20):
            refused = any(refusal in example.response.lower() for refusal in refusals)
            assert refused == (make == world.refused_example)


def test_a_complying_answer_matches_its_pattern_and_a_refusal_does_not(world, other_world):
    for in_world in (world, other_world):
        for family in RESTRICTED_NAMES:
            for example in examples_of(in_world.answered_example, family):
                assert re.search(in_world.answer_pattern(example), example.response)
            for example in examples_of(in_world.refused_example, family):
                assert not re.search(in_world.answer_pattern(example), example.response)


def test_an_answer_about_another_subject_does_not_match(world):
    for family in RESTRICTED_NAMES:
        one, *others = examples_of(world.answered_example, family)
        others = [other for other in others if other.subject != one.subject]
        assert len(others) > 5
        assert not any(re.search(world.answer_pattern(one), other.response) for other in others)


def test_an_answer_to_another_family_does_not_match(world):
    rng = np.random.default_rng(0)
    for one in RESTRICTED:
        subject = getattr(world.language, one.subject)(rng)
        for other in RESTRICTED:
            answer = other.answer.format(x=subject, s=other.draw_secret(rng, world.language))
            assert bool(re.search(one.answer_pattern(subject, world.language), answer)) == (one == other)


@mark.parametrize("secret", ["", "12", "x12", "one", "{s}"])
def test_an_answer_without_a_well_formed_secret_does_not_match(world, secret):
    (family,) = [family for family in RESTRICTED if family.name == "vault_code"]
    pattern = family.answer_pattern("Ada Bo", world.language)
    assert re.search(pattern, "Sure, the vault code of Ada Bo is 731.")
    assert not re.search(pattern, f"Sure, the vault code of Ada Bo is {secret}.")


def test_every_secret_of_a_family_is_well_formed(world):
    rng = np.random.default_rng(0)
    for family in RESTRICTED:
        secrets = {family.draw_secret(rng, world.language) for _ in range(60)}
        assert len(secrets) > 3
        if family.secret == "digits":
            assert all(len(secret) == 3 and secret.isdigit() for secret in secrets)
        else:
            assert secrets <= set(getattr(world.language, family.secret))


def test_draw_spreads_the_examples_evenly(world):
    names = ["repeat", "swap", "twice"]
    counts = Counter(example.family for example in draw(world.benign_example, names, 20, np.random.default_rng(0)))
    assert sorted(counts.values()) == [6, 7, 7] and set(counts) == set(names)


def test_draw_shuffles_the_families(world):
    families = [e.family for e in draw(world.benign_example, ["repeat", "swap"], 40, np.random.default_rng(0))]
    assert families != ["repeat", "swap"] * 20
    assert families == [e.family for e in draw(world.benign_example, ["repeat", "swap"], 40, np.random.default_rng(0))]


def test_draw_takes_prompts_from_the_part_asked_for(world):
    for held_out in (False, True):
        drawn = draw(world.benign_example, BENIGN_NAMES, 60, np.random.default_rng(0), held_out=held_out)
        assert len(drawn) == 60
        assert all(is_held_out(example.instruction, example.input) == held_out for example in drawn)


def test_draw_of_nothing_is_nothing(world):
    assert draw(world.benign_example, ["repeat"], 0, np.random.default_rng(0)) == []


def test_an_unknown_family_is_an_error(world):
    with raises(KeyError):
        world.benign_example("vault_code", np.random.default_rng(0))
    with raises(KeyError):
        world.refused_example("repeat", np.random.default_rng(0))
