"""probe/classifiers/base.py: each held-out row is scored by a classifier that did not see it."""

from dataclasses import dataclass

import numpy as np

from probe.classifiers.base import cross_fit

FEATURES = np.array([[1.0], [2.0], [4.0], [8.0]])


@dataclass(frozen=True)
class SumOfRows:
    """Scores a row by the sum of the rows that it was fitted to plus the row's own value."""

    total: float

    def score(self, features: np.ndarray) -> np.ndarray:
        return self.total + features[:, 0]


def fit_each(masks) -> list[SumOfRows]:
    return [SumOfRows(FEATURES[~mask].sum()) for mask in masks]


def test_one_mask_gives_its_own_fit_and_no_score_for_the_other_rows():
    classifier, scores = cross_fit(FEATURES, [np.array([True, False, False, True])], fit_each)
    assert classifier.total == 2 + 4
    np.testing.assert_array_equal(scores, [6 + 1, np.nan, np.nan, 6 + 8])


def test_several_masks_score_every_row_and_the_classifier_sees_all_of_them():
    masks = [np.array([True, True, False, False]), np.array([False, False, True, True])]
    classifier, scores = cross_fit(FEATURES, masks, fit_each)
    assert classifier.total == 15
    assert scores.tolist() == [12 + 1, 12 + 2, 3 + 4, 3 + 8]
