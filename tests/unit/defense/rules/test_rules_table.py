"""defense/rules: every rule by its name, with its settings, and what all rules have in common."""

import inspect
import math
from importlib import import_module

import numpy as np
import pytest
import safetensors.torch
import torch

from defense.rules import RULES, round_updates
from defense.rules.accumulator import make_accumulator
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import WeightedUpdate
from tests.unit.defense.rules.builders import aggregate as run
from tests.unit.defense.rules.builders import draw, flat, split, updates_of

NAMES = list(RULES)
COLLECTING = [name for name in NAMES if name != "fedavg"]
EXACT_ON_EQUALS = [name for name in NAMES if name not in ("foolsgold", "centered_clipping", "lasa")]
"""Rules of which identical updates come back as they are. The others: nothing moves, a clipped step, a sparsified update."""


def aggregate(name, updates, **given):
    """Without FLAME's noise and with a radius that clips, unless given."""
    quiet = {"flame": {"noise": 0}, "centered_clipping": {"radius": 2.0}}.get(name, {})
    return run(name, updates, **({"f": 2} | quiet | given))


def accumulator(name: str):
    return make_accumulator(AggregationConfig(rule=name, f=2))


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_takes_what_its_record_and_its_settings_say(name):
    taken = set(inspect.signature(import_module(f"defense.rules.{name}").aggregate).parameters) - {"updates"}
    rule, has_settings = RULES[name], name in AggregationConfig.model_fields
    needed = {"f": rule.assumes_attackers, "memory": rule.remembers, "rng": rule.draws, "settings": has_settings}
    assert taken == {key for key, needs in needed.items() if needs}


@pytest.mark.parametrize("name", COLLECTING)
def test_the_order_of_arrival_does_not_change_a_bit(name):
    updates = draw(0).updates
    expected = flat(aggregate(name, updates).delta)
    for seed in range(2):
        shuffled = np.random.default_rng(seed).permutation(len(updates))
        np.testing.assert_array_equal(flat(aggregate(name, [updates[i] for i in shuffled]).delta), expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_matter_which_client_has_which_id(name):
    # With f=3 of 15 Bulyan's last runs of Krum look at two neighbours; at one, the closest two would tie.
    drawn = draw(1, 15)
    expected = flat(aggregate(name, drawn.updates, f=3).delta)
    order = np.random.default_rng(5).permutation(len(drawn.rows))
    renamed = updates_of(drawn.rows[order], drawn.samples[order], drawn.weights[order])
    np.testing.assert_allclose(flat(aggregate(name, renamed, f=3).delta), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", EXACT_ON_EQUALS)
@pytest.mark.parametrize("num_clients", [1, 2, 3, 11])
@pytest.mark.parametrize("pre", ["none", "nnm"])
def test_identical_updates_return_themselves(name, num_clients, pre):
    drawn = draw(2, num_clients)
    found = aggregate(name, updates_of([drawn.rows[0]] * num_clients, drawn.samples, drawn.weights), pre=pre)
    np.testing.assert_allclose(flat(found.delta), drawn.rows[0], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("fedavg", "foolsgold")])
@pytest.mark.parametrize(("value", "place"), [(1e6, 0), (-1e30, 5)])
def test_one_huge_client_of_eleven_moves_the_others_little(name, value, place):
    # Honest updates are about 1 in every value, with a deviation of 0.1.
    rows = 1 + 0.1 * draw(3, num_values=20).rows
    honest = np.delete(rows, place, axis=0)
    rows[place] = value
    settings = {"centered_clipping": {"radius": None}, "lasa": {"sparsity": 0}}.get(name, {})
    found = flat(aggregate(name, updates_of(rows), **settings).delta)
    # The farthest that clipping to the median norm allows: one share of eleven, of a norm like the others', reversed.
    assert np.abs(found - honest.mean(0)).max() < 0.25
    assert np.linalg.norm(found - honest.mean(0)) < 0.21 * np.linalg.norm(honest.mean(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_clients", [1, 2, 3, 4])
def test_a_few_clients_are_enough(name, num_clients):
    drawn = draw(4, num_clients)
    found = flat(aggregate(name, drawn.updates, f=3).delta)
    assert np.isfinite(found).all()
    assert (found >= np.minimum(drawn.rows.min(0), 0) - 1e-9).all()
    assert (found <= np.maximum(drawn.rows.max(0), 0) + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_client_of_weight_0_cannot_be_added_so_not_even_nan_gets_in(name):
    state = accumulator(name)
    for update in draw(5).updates:
        state.add(update)
    before = flat(state.finish({}, {}, np.random.default_rng(0)).delta)
    with pytest.raises(ValueError, match="client zz of mass 0"):
        state.add(WeightedUpdate(client_id="zz", delta=split([math.nan] * 7), num_samples=10, weight=0.0))
    np.testing.assert_array_equal(flat(state.finish({}, {}, np.random.default_rng(0)).delta), before)


@pytest.mark.parametrize("name", NAMES)
def test_finishing_changes_neither_updates_nor_state_nor_memory(name):
    updates = draw(6).updates
    memory = aggregate(name, updates).memory
    state = accumulator(name)
    for update in updates:
        state.add(update)
    remembered = {key: tensor.clone() for key, tensor in memory.items()}
    first, second = (state.finish({}, memory, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(flat(first.delta), flat(second.delta))
    assert all(torch.equal(tensor, remembered[key]) for key, tensor in memory.items())
    np.testing.assert_array_equal([flat(update.delta) for update in updates], draw(6).rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_float64_in_the_shapes_of_the_adapter(name):
    updates = [
        WeightedUpdate(client_id=f"c{i:02d}", delta=split(row, rows_of_a=3), num_samples=1, weight=1.0)
        for i, row in enumerate(draw(7, num_values=13).rows)
    ]
    found = aggregate(name, updates).delta
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == {"a": (3, 4), "b": (1,)}
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_a_safetensors_file_and_goes_on_from_there(name):
    first, second = draw(8), draw(9)
    memory = aggregate(name, first.updates).memory
    assert bool(memory) == (RULES[name].remembers is not None)
    restored = safetensors.torch.load(safetensors.torch.save(dict(memory))) if memory else {}
    straight, resumed = (aggregate(name, second.updates, memory=each) for each in (memory, restored))
    np.testing.assert_array_equal(flat(straight.delta), flat(resumed.delta))
    if memory:
        assert not np.array_equal(flat(straight.delta), flat(aggregate(name, second.updates).delta))


@pytest.mark.parametrize("name", COLLECTING)
def test_the_size_of_blocks_is_of_no_consequence(monkeypatch, name):
    drawn = draw(10, num_values=50)
    whole = flat(aggregate(name, drawn.updates).delta)
    monkeypatch.setattr(round_updates, "_BLOCK_VALUES", 33)
    monkeypatch.setattr(round_updates, "_LEAST_WIDTH", 1)
    np.testing.assert_allclose(flat(aggregate(name, drawn.updates).delta), whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_a_round_without_clients_is_an_error(name):
    with pytest.raises(ValueError, match="no client was added"):
        aggregate(name, [])


@pytest.mark.parametrize("name", COLLECTING)
def test_nnm_for_no_attacker_makes_all_updates_the_mean(name):
    drawn = draw(11)
    settings = {"sparsity": 0} if name == "lasa" else {}
    found = flat(aggregate(name, drawn.updates, f=0, pre="nnm", **settings).delta)
    mean = drawn.mean
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
def test_settings_reach_the_rule(name, settings):
    updates = draw(12).updates
    assert not np.allclose(flat(run(name, updates, f=2, **settings).delta), flat(run(name, updates, f=2).delta))


@pytest.mark.parametrize("name", NAMES)
def test_chance_comes_from_the_generator_alone(name):
    updates = draw(13, num_values=60).updates
    settings: dict = {"coordinates": 3} if name == "dnc" else {}
    first, again, other = (flat(run(name, updates, f=4, seed=seed, **settings).delta) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (not RULES[name].draws)
