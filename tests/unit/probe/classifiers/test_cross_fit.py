"""probe/classifiers/cross_fit.py: each row is scored by a fit that did not see it; fits side by side are those one by one."""

import numpy as np
import pytest

from probe.classifiers.cross_fit import cross_fit_linear, fit_each
from probe.classifiers.linear import fit_linear
from probe.config import LinearRecipe
from tests.unit.probe.classifiers.test_linear import held_out, toy


def test_with_several_masks_the_probe_sees_every_row_and_each_row_is_scored_by_a_fit_that_did_not():
    rows, labels, clients = toy()
    masks = [clients % 2 == 0, clients % 2 == 1]
    recipe = LinearRecipe(max_epochs=5)
    probe, scores = cross_fit_linear(rows, labels, masks, recipe)
    whole = fit_linear(rows, labels, np.zeros(len(labels), dtype=bool), recipe, stop_early=False)
    np.testing.assert_allclose(probe.weight, whole.weight, atol=1e-6)
    for mask in masks:
        part = fit_linear(rows, labels, mask, recipe, stop_early=False)
        np.testing.assert_allclose(scores[mask], part.score(rows[mask]), atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 2.0])
def test_fits_side_by_side_are_those_one_by_one_up_to_rounding(weight_decay):
    # Five times the toy's scale, so that early gradients are clipped; the classes are unequal, and differently so in each fit.
    rows, labels, clients = toy(num_benign=12, num_malicious=4)
    rows, recipe = 5 * rows, LinearRecipe(weight_decay=weight_decay)
    masks = [clients % 5 == fold for fold in range(4)] + [np.zeros(len(labels), dtype=bool)]
    together = fit_each(rows, labels, masks, recipe)
    for probe, mask in zip(together, masks, strict=True):
        alone = fit_linear(rows, labels, mask, recipe, stop_early=False)
        np.testing.assert_allclose(probe.weight, alone.weight, atol=1e-5)
        assert probe.bias == pytest.approx(alone.bias, abs=1e-5)
    assert len({probe.weight.tobytes() for probe in together}) == len(masks)


def test_a_row_that_a_fit_holds_out_does_not_change_it():
    rows, labels, clients = toy()
    masks = [clients == 0, clients == 1]
    before, other = fit_each(rows, labels, masks, LinearRecipe(max_epochs=5))
    rows[clients == 0] *= -3
    after, changed = fit_each(rows, labels, masks, LinearRecipe(max_epochs=5))
    assert before.weight.tobytes() == after.weight.tobytes()
    assert other.weight.tobytes() != changed.weight.tobytes()


def test_rows_that_fill_several_batches_are_fitted_one_by_one_to_the_bit():
    rows, labels, clients = toy()
    masks, recipe = [clients % 2 == 0, clients % 2 == 1], LinearRecipe(max_epochs=3, batch_size=16)
    for probe, mask in zip(fit_each(rows, labels, masks, recipe), masks, strict=True):
        assert probe.weight.tobytes() == fit_linear(rows, labels, mask, recipe, stop_early=False).weight.tobytes()


def test_a_feature_that_is_not_finite_is_an_error_that_names_the_sample():
    features, labels, clients = toy()
    features[5, 2] = np.inf
    with pytest.raises(ValueError, match=r"feature value 2 of sample 5 is inf"):
        fit_each(features, labels, [clients == 0], LinearRecipe())


def test_a_single_mask_gives_its_fit_and_no_score_for_the_other_rows():
    rows, labels, clients = toy()
    mask = held_out(clients)
    probe, scores = cross_fit_linear(rows, labels, [mask], LinearRecipe(max_epochs=5))
    assert probe.weight.tobytes() == fit_linear(rows, labels, mask, LinearRecipe(max_epochs=5)).weight.tobytes()
    assert np.isnan(scores).tolist() == (~mask).tolist()
