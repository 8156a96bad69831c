"""Which clients attack, and which recipe each client has."""

from actors.config import Recipe
from cluster.config.loading import load_config
from cluster.data.own_data import client_names
from cluster.simulation.client_data import assign_recipes, draw_malicious

P, Q = Recipe(steps=2), Recipe(optimizer="sgd")


def test_malicious_clients_are_a_seeded_draw():
    draws = [draw_malicious(load_config(None, [f"seed={seed}"])) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    assert all(len(draw) == 3 and draw <= set(client_names(10)) for draw in draws)


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


def test_a_client_that_joins_later_changes_no_other_clients_recipe():
    assert assign_recipes([P, Q], "abc", {"b"}).items() <= assign_recipes([P, Q], "abcde", {"b"}).items()
