"""Whose recipe is whose."""

from actors.config import Recipe
from cluster.simulation.recipes import assign_recipes

P, Q = Recipe(steps=2), Recipe(optimizer="sgd")


def test_honest_clients_take_turns_and_attackers_take_none():
    assert assign_recipes([P, Q], "abcdef", {"b", "e"}) == {
        "a": P,
        "b": Recipe(),
        "c": Q,
        "d": P,
        "e": Recipe(),
        "f": Q,
    }


def test_without_recipes_all_train_alike():
    assert assign_recipes([], "ab", set()) == {"a": Recipe(), "b": Recipe()}


def test_who_joins_later_changes_nothing_for_the_others():
    assert assign_recipes([P, Q], "abc", {"b"}).items() <= assign_recipes([P, Q], "abcde", {"b"}).items()
