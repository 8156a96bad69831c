"""The words of a world: drawn from its seed, each list free of duplicates, and no two lists that could be confused."""

import dataclasses
import itertools

import numpy as np
from pytest import fixture, mark

from actors.world.language import Language, build_language, pick_distinct

SEEDS = range(5)
LISTS = [field.name for field in dataclasses.fields(Language)]


@fixture(scope="module")
def languages() -> list[Language]:
    return [build_language(seed) for seed in SEEDS]


def test_languages_follow_the_seed(languages):
    assert [build_language(seed) for seed in SEEDS] == languages
    for name in ("first_names", "last_names", "places", "objects", "colours", "animals", "opposites"):
        assert len({str(getattr(language, name)) for language in languages}) == len(SEEDS)
    for name in ("refusals", "openers"):
        assert len({frozenset(getattr(language, name)) for language in languages}) > 2


@mark.parametrize("name", LISTS)
def test_no_list_is_empty_or_holds_anything_twice(languages, name):
    for language in languages:
        words = getattr(language, name)
        assert len(words) == len(set(words)) > 1


def test_a_world_has_several_refusals(languages):
    assert all(len(language.refusals) == 3 and len(language.openers) == 4 for language in languages)


def test_names_are_different_names_and_no_word_of_the_world(languages):
    for language in languages:
        names = language.first_names + language.last_names + language.places
        assert len(names) == len(set(names)) == 120
        assert all(name.isalpha() and name.istitle() and 4 <= len(name) <= 8 for name in names)
        lists = [language.objects, language.colours, language.rooms, language.animals, language.furniture, language.sides]
        assert not {word.lower() for word in itertools.chain(*lists, *language.opposites)} & {name.lower() for name in names}


def test_a_word_belongs_to_one_list_and_has_one_opposite(languages):
    for language in languages:
        lists = [language.objects, language.colours, language.rooms, language.animals, language.furniture]
        for words in (list(itertools.chain(*lists)), list(itertools.chain(*language.opposites))):
            assert len(words) == len(set(words))


def test_no_refusal_is_part_of_another_or_of_an_opener(languages):
    for language in languages:
        for refusal in (text.lower() for text in language.refusals):
            others = [text.lower() for text in language.refusals + language.openers]
            assert sum(refusal in other for other in others) == 1


def test_a_person_has_two_names_and_a_place_a_name_and_a_room(languages):
    rng, language = np.random.default_rng(0), languages[0]
    people, places = ({language.draw(kind, rng) for _ in range(200)} for kind in ("person", "place"))
    assert all(first in language.first_names and last in language.last_names for first, last in map(str.split, people))
    assert all(name in language.places and room.lower() in language.rooms for name, room in map(str.split, places))
    assert len(people) > 150 and len(places) > 100


def test_every_item_is_drawn_sooner_or_later_and_distinct_ones_once(languages):
    rng, language = np.random.default_rng(0), languages[0]
    assert {language.draw("sides", rng) for _ in range(50)} == set(language.sides)
    assert all(sorted(pick_distinct(rng, "abcd", 4)) == list("abcd") for _ in range(20))
