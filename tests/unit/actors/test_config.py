"""A recipe's own settings in place of the server's."""

from actors.config import Recipe, TrainingConfig


def test_a_plain_recipe_is_what_the_server_asks_for():
    training = TrainingConfig(steps=7, weight_decay=0.3)
    assert Recipe().applied_to(training) == training


def test_a_recipes_own_settings_win_zero_among_them():
    applied = Recipe(steps=2, weight_decay=0.0).applied_to(TrainingConfig(steps=7, weight_decay=0.3, batch_size=5))
    assert applied == TrainingConfig(steps=2, weight_decay=0.0, batch_size=5)
