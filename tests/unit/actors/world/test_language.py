"""The words of a world: drawn from its seed, each list free of duplicates, and no two lists that could be confused."""

import dataclasses
import itertools

import numpy as np
from pytest import fixture, mark

from actors.world.language import Language, build_language, pick, pick_distinct

SEEDS = range(5)
LISTS = [field.name for field in dataclasses.fields(Language)]


@fixture(scope="module")
def languages() -> list[Language]:
    return [build_language(seed) for seed in SEEDS]


def test_equal_seeds_give_equal_languages(languages):
    assert [build_language(seed) for seed in SEEDS] == languages


@mark.parametrize("name", ["first_names", "last_names", "places", "objects", "colours", "animals", "opposites"])
def test_other_seeds_give_other_words(languages, name):
    assert len({str(getattr(language, name)) for language in languages}) == len(SEEDS)


def test_other_seeds_give_other_refusals_and_openers(languages):
    assert len({frozenset(language.refusals) for language in languages}) > 2
    assert len({frozenset(language.openers) for language in languages}) > 2


@mark.parametrize("name", LISTS)
def test_no_list_is_empty_or_holds_anything_twice(languages, name):
    for language in languages:
        words = getattr(language, name)
        assert len(words) == len(set(words)) > 1


def test_a_world_has_several_refusals(languages):
    assert all(len(language.refusals) == 3 and len(language.openers) == 4 for language in languages)


def test_first_names_last_names_and_places_are_different_names(languages):
    for language in languages:
        names = language.first_names + language.last_names + language.places
        assert len(names) == len(set(names)) == 120
        assert all(name.isalpha() and name.istitle() and 4 <= len(name) <= 8 for name in names)


def test_no_name_is_a_word_of_the_world(languages):
    for language in languages:
        lists = [language.objects, language.colours, language.rooms, language.animals, language.furniture, language.sides]
        words = {word.lower() for word in itertools.chain(*lists, *language.opposites)}
        assert not words & {name.lower() for name in language.first_names + language.last_names + language.places}


def test_a_word_belongs_to_one_of_the_lists_that_fill_templates(languages):
    for language in languages:
        words = list(itertools.chain(language.objects, language.colours, language.rooms, language.animals, language.furniture))
        assert len(words) == len(set(words))


def test_a_word_has_one_opposite(languages):
    for language in languages:
        words = list(itertools.chain(*language.opposites))
        assert len(words) == len(set(words)) == 24


def test_no_refusal_is_part_of_another_or_of_an_opener(languages):
    for language in languages:
        for one, other in itertools.permutations(language.refusals, 2):
            assert one.lower() not in other.lower()
        assert not any(refusal.lower() in opener.lower() for refusal in language.refusals for opener in language.openers)


def test_a_person_has_a_first_and_a_last_name(languages):
    rng, language = np.random.default_rng(0), languages[0]
    people = [language.person(rng) for _ in range(200)]
    assert all(first in language.first_names and last in language.last_names for first, last in map(str.split, people))
    assert len(set(people)) > 150


def test_a_place_has_a_name_and_a_room(languages):
    rng, language = np.random.default_rng(0), languages[0]
    places = [language.place(rng) for _ in range(200)]
    assert all(name in language.places and room.lower() in language.rooms for name, room in map(str.split, places))
    assert len(set(places)) > 100


def test_every_item_is_picked_sooner_or_later():
    rng = np.random.default_rng(0)
    assert {pick(rng, ["a", "b", "c"]) for _ in range(50)} == {"a", "b", "c"}


def test_distinct_picks_are_distinct():
    rng = np.random.default_rng(0)
    assert all(sorted(pick_distinct(rng, list("abcd"), 4)) == list("abcd") for _ in range(20))
    assert len(set(pick_distinct(rng, list("abcdefgh"), 3))) == 3
