"""probe/classifiers/linear.py: the linear probe's scores, what its fit learns and stops at, and fits side by side."""

import math

import numpy as np
import pytest
import torch

from probe.classifiers.linear import LinearProbe, LinearSettings, fit_each, fit_linear
from probe.classifiers.numbers import NUMBERS_FILE, write_numbers


def toy(num_benign: int = 8, num_malicious: int = 8, steps: int = 4, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows near (-1, 1, 0 ...) for benign and near (1, -1, 0 ...) for malicious clients."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0] * num_benign + [1] * num_malicious, steps)
    rows = rng.normal(scale=0.2, size=(len(labels), 6))
    rows[:, 0] += 2 * labels - 1
    rows[:, 1] -= 2 * labels - 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels, np.repeat(np.arange(num_benign + num_malicious), steps)


def held_out(clients: np.ndarray) -> np.ndarray:
    """Every eighth client, 0, 8 ... and 7, 15 ..., watches: both classes of any toy of 8 and 8 have one."""
    return np.isin(clients % 8, (0, 7))


def fit(rows: np.ndarray, labels: np.ndarray, clients: np.ndarray, settings: LinearSettings) -> LinearProbe:
    return fit_linear(rows, labels, held_out(clients), settings)


# Scores


def test_score_is_the_sigmoid_of_the_weighted_sum():
    # Row 1: 2*0.5 - 1*1 + 0 = 0 -> 1/2. Row 2: 2*1 - 1*0.5 - 0 = 1.5 -> 1 / (1 + e^-1.5) = 0.8175744761936437.
    probe = LinearProbe(weight=np.array([2.0, -1.0], dtype=np.float32), bias=0.0)
    scores = probe.score(np.array([[0.5, 1.0], [1.0, 0.5]], dtype=np.float32))
    assert scores.tolist() == pytest.approx([0.5, 0.8175744761936437], abs=1e-15)
    # A bias of ln 3 multiplies the odds 1 : 1 of row 1 by 3, so 3/4.
    shifted = LinearProbe(weight=probe.weight, bias=math.log(3))
    assert shifted.score(np.array([[0.5, 1.0]], dtype=np.float32))[0] == pytest.approx(0.75, abs=1e-15)
    assert probe.score(np.zeros((0, 2), dtype=np.float32)).tolist() == []


def test_a_score_is_the_same_to_the_bit_alone_in_any_batch_and_in_any_memory_layout():
    rng = np.random.default_rng(3)
    probe = LinearProbe(weight=rng.normal(size=257).astype(np.float32), bias=0.125)
    rows = rng.normal(size=(33, 257)).astype(np.float32)
    alone = [probe.score(rows[i : i + 1])[0] for i in range(len(rows))]
    assert probe.score(rows).tolist() == probe.score(np.asfortranarray(rows)).tolist() == alone
    for size in (2, 3, 8, 16):
        assert probe.score(rows[5 : 5 + size]).tolist() == alone[5 : 5 + size]
    order = rng.permutation(len(rows))
    assert probe.score(rows[order]).tolist() == [alone[i] for i in order]
    wide = np.zeros((len(rows), 2 * rows.shape[1]), dtype=np.float32)
    wide[:, ::2] = rows
    assert probe.score(wide[:, ::2]).tolist() == alone


def test_the_sum_is_taken_in_float64():
    # In float32 2^24 + 1 is 2^24, and the sum would be 0 (p = 1/2); exactly it is 1 -> 1 / (1 + 1/e).
    probe = LinearProbe(weight=np.ones(3, dtype=np.float32), bias=0.0)
    score = probe.score(np.array([[2.0**24, 1.0, -(2.0**24)]], dtype=np.float32))[0]
    assert score == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-15)


WEIGHT = np.zeros(8, dtype=np.float32)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {NUMBERS_FILE: write_numbers({"weight": WEIGHT, "bias": np.zeros(1)})[NUMBERS_FILE][:-4]},
        write_numbers({"weight": WEIGHT}),
        write_numbers({"weight": WEIGHT.reshape(2, 4), "bias": np.zeros(1)}),
        write_numbers({"weight": WEIGHT, "bias": np.zeros(0)}),
        write_numbers({"weight": WEIGHT, "bias": np.zeros(2)}),
        write_numbers({"weight": np.append(WEIGHT, np.nan), "bias": np.zeros(1)}),
        write_numbers({"weight": WEIGHT, "bias": np.array([np.inf])}),
    ],
)
def test_unusable_files_are_refused_by_name(files):
    with pytest.raises(ValueError, match=r"probe\.safetensors"):
        LinearProbe.load(files)


# Fit


def test_the_fit_finds_the_optimum_worked_out_by_hand_with_classes_weighted_equally():
    # One value x a row; a benign client has x = -1, -1, 1 and a malicious one 1, 1, -1; 20 benign and 10 malicious.
    # pos_weight 2 makes the classes equal, so P(malicious | x = 1) = 2 / (2 + 1) = 2/3 and P(malicious | x = -1) = 1/3:
    # bias 0, weight ln 2. Without pos_weight it would be 2*10 / (2*10 + 1*20) = 1/2 at x = 1.
    rows = np.array([[-1, -1, 1]] * 20 + [[1, 1, -1]] * 10, dtype=np.float32).reshape(-1, 1)
    labels, clients = np.repeat([0] * 20 + [1] * 10, 3), np.repeat(np.arange(30), 3)
    settings = LinearSettings(weight_decay=0, learning_rate=0.02, max_epochs=300, patience=300, min_improvement=0)
    probe = fit_linear(rows, labels, np.isin(clients, (0, 1, 20)), settings)
    assert probe.score(np.array([[1], [-1]], dtype=np.float32)).tolist() == pytest.approx([2 / 3, 1 / 3], abs=5e-3)


def adamw_by_hand(x, y, start, num_steps: int) -> tuple[np.ndarray, list[float]]:
    """AdamW (Loshchilov and Hutter 2019) in numpy float64 over the whole data per step, with the paper's settings.

    The last column of x is 1, so the last parameter is the bias. Returns the parameters and each step's gradient norm.
    """
    parameters, m, v, norms = start.copy(), 0.0, 0.0, []
    row_weight = np.where(y == 1, (y == 0).sum() / (y == 1).sum(), 1.0)
    for step in range(1, num_steps + 1):
        p = 1 / (1 + np.exp(-(x @ parameters)))
        gradient = x.T @ (row_weight * (p - y)) / len(y)
        norms.append(float(np.linalg.norm(gradient)))
        gradient *= min(1.0, 0.5 / norms[-1])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        parameters = parameters * (1 - 0.01 * 2.0) - 0.01 * update
    return parameters, norms


def test_the_fit_is_the_papers_adamw_with_clipped_gradients():
    # Three benign rows to one malicious. Five times the toy's scale, so that early gradients are above the clip at 0.5.
    # All rows fit into one batch of 256, and the held-out loss falls in every epoch, so the last of 100 is the best.
    rows, labels, clients = toy(num_benign=12, num_malicious=4)
    rows *= 5
    kept = ~held_out(clients)
    unmoved = fit(rows, labels, clients, LinearSettings(learning_rate=1e-30, max_epochs=1))
    start = np.append(unmoved.weight.astype(np.float64), unmoved.bias)
    x = np.hstack([rows[kept].astype(np.float64), np.ones((kept.sum(), 1))])
    expected, norms = adamw_by_hand(x, labels[kept], start, 100)
    assert max(norms) > 1  # clipped
    assert min(norms) < 0.5  # left as it is
    probe = fit(rows, labels, clients, LinearSettings(min_improvement=0))
    np.testing.assert_allclose(np.append(probe.weight, probe.bias), expected, atol=1e-4)


def test_patience_is_the_number_of_epochs_without_an_improvement_that_counts():
    # x = -1 benign, x = 1 malicious; the weight starts in -1 ... 1 and moves by about 0.001 an epoch, where the loss falls
    # by 0.27 to 0.73 of that. A fall of 0.002 takes 3 to 8 epochs: patience 2 gives up and returns the first epoch's
    # parameters, patience 20 does not.
    rows = np.repeat([-1.0, 1.0], 8).astype(np.float32)[:, None]
    labels, clients = np.repeat([0, 1], 8), np.arange(16)
    slow = {"learning_rate": 0.001, "weight_decay": 0, "min_improvement": 0.002, "max_epochs": 60}
    first = fit(rows, labels, clients, LinearSettings(**{**slow, "max_epochs": 1}))
    impatient = fit(rows, labels, clients, LinearSettings(**slow, patience=2))
    patient = fit(rows, labels, clients, LinearSettings(**slow, patience=20))
    assert impatient.weight[0] == first.weight[0]
    assert patient.weight[0] > first.weight[0] + 0.03


def test_a_rising_validation_loss_brings_back_the_parameters_of_the_best_epoch():
    # The held-out clients carry the opposite pattern, so every epoch after the first makes their loss worse.
    rows, labels, clients = toy()
    inverted = held_out(clients)
    rows[inverted] *= -1
    stopped = fit(rows, labels, clients, LinearSettings(max_epochs=20))
    assert stopped.weight.tobytes() == fit(rows, labels, clients, LinearSettings(max_epochs=1)).weight.tobytes()
    # Without early stopping the last epoch counts, whatever the held-out rows.
    last = fit_linear(rows, labels, inverted, LinearSettings(max_epochs=20), stop_early=False)
    assert np.linalg.norm(last.weight - stopped.weight) > 0.1
    unchanged = fit_linear(toy()[0], labels, inverted, LinearSettings(max_epochs=20), stop_early=False)
    assert last.weight.tobytes() == unchanged.weight.tobytes()


def test_the_seed_alone_decides_and_neither_random_state_nor_inputs_change():
    data, copies = toy(), toy()
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fit(*data, LinearSettings(seed=4, max_epochs=5))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(12)
    assert fit(*data, LinearSettings(seed=4, max_epochs=5)).files() == first.files()
    assert fit(*data, LinearSettings(seed=5, max_epochs=5)).files() != first.files()
    for array, copy in zip(data, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# Fits side by side


@pytest.mark.parametrize("weight_decay", [0.0, 2.0])
def test_fits_side_by_side_are_those_one_by_one_up_to_rounding(weight_decay):
    # Five times the toy's scale, so that early gradients are clipped; the classes are unequal, and differently so in each fit.
    rows, labels, clients = toy(num_benign=12, num_malicious=4)
    rows, settings = 5 * rows, LinearSettings(weight_decay=weight_decay)
    masks = [clients % 5 == fold for fold in range(4)] + [np.zeros(len(labels), dtype=bool)]
    together = fit_each(rows, labels, masks, settings)
    for probe, mask in zip(together, masks, strict=True):
        alone = fit_linear(rows, labels, mask, settings, stop_early=False)
        np.testing.assert_allclose(probe.weight, alone.weight, atol=1e-5)
        assert probe.bias == pytest.approx(alone.bias, abs=1e-5)
    assert len({probe.weight.tobytes() for probe in together}) == len(masks)


def test_a_row_that_a_fit_holds_out_does_not_change_it():
    rows, labels, clients = toy()
    masks = [clients == 0, clients == 1]
    before, other = fit_each(rows, labels, masks, LinearSettings(max_epochs=5))
    rows[clients == 0] *= -3
    after, changed = fit_each(rows, labels, masks, LinearSettings(max_epochs=5))
    assert before.weight.tobytes() == after.weight.tobytes()
    assert other.weight.tobytes() != changed.weight.tobytes()


def test_rows_that_fill_several_batches_are_fitted_one_by_one_to_the_bit():
    rows, labels, clients = toy()
    masks, settings = [clients % 2 == 0, clients % 2 == 1], LinearSettings(max_epochs=3, batch_size=16)
    for probe, mask in zip(fit_each(rows, labels, masks, settings), masks, strict=True):
        assert probe.weight.tobytes() == fit_linear(rows, labels, mask, settings, stop_early=False).weight.tobytes()


def test_a_single_mask_stops_early():
    rows, labels, clients = toy()
    rows[held_out(clients)] *= -1
    (probe,) = fit_each(rows, labels, [held_out(clients)], LinearSettings(max_epochs=20))
    assert probe.files() == fit(rows, labels, clients, LinearSettings(max_epochs=1)).files()
