"""defense/rules/__init__.py: every rule by its name, with its parameters, and what all rules have in common."""

import math
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch

from defense.config import AggregationConfig, RuleName
from defense.rules import forgetful_rules, gather, make_rule, remembering_rules
from defense.rules.rule import Update
from tests.unit.defense.rules.builders import aggregate, draw, flat, split, updates_of

NAMES = get_args(RuleName)
GATHERING = [name for name in NAMES if name != "fedavg"]
EXACT_ON_EQUALS = [name for name in NAMES if name not in ("foolsgold", "centered_clipping", "lasa")]
"""Rules of which identical updates come back as they are. The others: nothing moves, a clipped step, a sparsified update."""


def config(name: str, f: int = 2, **settings) -> AggregationConfig:
    """Without FLAME's noise and with a radius that clips, unless told otherwise."""
    quiet = {"flame": {"noise": 0}, "centered_clipping": {"radius": 2.0}}
    return AggregationConfig(rule=name, f=f, **(quiet | settings))


def test_every_name_has_its_rule():
    made = AggregationConfig()
    assert set(forgetful_rules(made)) | set(remembering_rules(made)) == set(NAMES)
    assert not set(forgetful_rules(made)) & set(remembering_rules(made))


@pytest.mark.parametrize("name", GATHERING)
def test_the_order_of_arrival_does_not_change_a_bit(name):
    updates = draw(0).updates
    expected = flat(aggregate(config(name), updates).delta)
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(len(updates))
        np.testing.assert_array_equal(flat(aggregate(config(name), [updates[i] for i in shuffled]).delta), expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_matter_which_client_has_which_id(name):
    # With f=3 of 15 Bulyan's last runs of Krum look at two neighbours; at one, the closest two would tie.
    drawn = draw(1, 15)
    expected = flat(aggregate(config(name, f=3), drawn.updates).delta)
    order = np.random.default_rng(5).permutation(len(drawn.rows))
    renamed = updates_of(drawn.rows[order], drawn.samples[order], drawn.weights[order])
    np.testing.assert_allclose(flat(aggregate(config(name, f=3), renamed).delta), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", EXACT_ON_EQUALS)
@pytest.mark.parametrize("num_clients", [1, 2, 3, 7, 11])
@pytest.mark.parametrize("pre", ["none", "nnm"])
def test_identical_updates_return_themselves(name, num_clients, pre):
    drawn = draw(2, num_clients)
    found = aggregate(config(name, pre=pre), updates_of([drawn.rows[0]] * num_clients, drawn.samples, drawn.weights))
    np.testing.assert_allclose(flat(found.delta), drawn.rows[0], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("fedavg", "foolsgold")])
@pytest.mark.parametrize("value", [1e6, -1e30])
@pytest.mark.parametrize("place", [0, 5])
def test_one_huge_client_of_eleven_moves_the_others_little(name, value, place):
    # Honest updates are about 1 in every value, with a deviation of 0.1.
    rows = 1 + 0.1 * draw(3, num_values=20).rows
    honest = np.delete(rows, place, axis=0)
    rows[place] = value
    found = flat(aggregate(config(name, centered_clipping={}, lasa={"sparsity": 0}), updates_of(rows)).delta)
    # The farthest that clipping to the median norm allows: one share of eleven, of a norm like the others', reversed.
    assert np.abs(found - honest.mean(0)).max() < 0.25
    assert np.linalg.norm(found - honest.mean(0)) < 0.21 * np.linalg.norm(honest.mean(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_clients", [1, 2, 3, 4])
def test_a_few_clients_are_enough(name, num_clients):
    drawn = draw(4, num_clients)
    found = flat(aggregate(config(name, f=3), drawn.updates).delta)
    assert np.isfinite(found).all()
    assert (found >= np.minimum(drawn.rows.min(0), 0) - 1e-9).all()
    assert (found <= np.maximum(drawn.rows.max(0), 0) + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_client_of_weight_0_is_refused_so_not_even_nan_gets_in(name):
    rule = make_rule(config(name))
    state = rule.init()
    for update in draw(5).updates:
        state = rule.add(state, update)
    before = flat(rule.finish(state, {}, np.random.default_rng(0)).delta)
    with pytest.raises(ValueError, match="client zz of mass 0"):
        rule.add(state, Update(client_id="zz", delta=split([math.nan] * 7), num_samples=10, weight=0.0))
    np.testing.assert_array_equal(flat(rule.finish(state, {}, np.random.default_rng(0)).delta), before)


@pytest.mark.parametrize("name", NAMES)
def test_finishing_changes_neither_updates_nor_state_nor_memory(name):
    updates = draw(6).updates
    memory = aggregate(config(name), updates).memory
    rule = make_rule(config(name))
    state = rule.init()
    for update in updates:
        state = rule.add(state, update)
    remembered = {key: tensor.clone() for key, tensor in memory.items()}
    first, second = (rule.finish(state, memory, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(flat(first.delta), flat(second.delta))
    assert all(torch.equal(tensor, remembered[key]) for key, tensor in memory.items())
    np.testing.assert_array_equal([flat(update.delta) for update in updates], draw(6).rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_float64_in_the_shapes_of_the_adapter(name):
    rows = draw(7, num_values=13).rows
    updates = [
        Update(client_id=f"c{i:02d}", delta=split(row, rows_of_a=3), num_samples=1, weight=1.0) for i, row in enumerate(rows)
    ]
    found = aggregate(config(name), updates).delta
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == {"a": (3, 4), "b": (1,)}
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_a_safetensors_file_and_goes_on_from_there(name):
    first, second = draw(8), draw(9)
    memory = aggregate(config(name), first.updates).memory
    assert bool(memory) == (name in remembering_rules(AggregationConfig()))
    restored = safetensors.torch.load(safetensors.torch.save(dict(memory))) if memory else {}
    straight, resumed = (aggregate(config(name), second.updates, memory=each) for each in (memory, restored))
    np.testing.assert_array_equal(flat(straight.delta), flat(resumed.delta))
    if memory:
        assert not np.array_equal(flat(straight.delta), flat(aggregate(config(name), second.updates).delta))


@pytest.mark.parametrize("name", GATHERING)
def test_the_size_of_blocks_is_of_no_consequence(monkeypatch, name):
    drawn = draw(10, num_values=50)
    whole = flat(aggregate(config(name), drawn.updates).delta)
    monkeypatch.setattr(gather, "_BLOCK_VALUES", 33)
    np.testing.assert_allclose(flat(aggregate(config(name), drawn.updates).delta), whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_no_round(name):
    with pytest.raises(ValueError, match="no client was added"):
        aggregate(config(name), [])


@pytest.mark.parametrize("name", GATHERING)
def test_nnm_for_no_attacker_makes_all_updates_the_mean(name):
    drawn = draw(11)
    mean = np.average(drawn.rows, axis=0, weights=drawn.masses)
    found = flat(aggregate(config(name, f=0, pre="nnm", lasa={"sparsity": 0}), drawn.updates).delta)
    expected = {"foolsgold": 0 * mean, "centered_clipping": mean * min(1, 2 / np.linalg.norm(mean))}.get(name, mean)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("geometric_median", {"max_iterations": 1}),
        ("centered_clipping", {"radius": 0.1}),
        ("foolsgold", {"confidence": 0.1}),
        ("dnc", {"filtering": 2.0}),
        ("flame", {"noise": 0.5}),
        ("residual", {"threshold": 0.9}),
        ("lasa", {"sparsity": 0.9}),
    ],
)
def test_parameters_reach_the_rule(name, settings):
    updates = draw(12).updates
    given = AggregationConfig(rule=name, f=2, **{name: settings})
    default = AggregationConfig(rule=name, f=2)
    assert not np.allclose(flat(aggregate(given, updates).delta), flat(aggregate(default, updates).delta))


@pytest.mark.parametrize("name", ["dnc", "flame"])
def test_chance_comes_from_the_generator_alone(name):
    updates = draw(13, num_values=60).updates
    given = AggregationConfig(rule=name, f=4, dnc={"coordinates": 3})
    first, again, other = (flat(aggregate(given, updates, seed=seed).delta) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
