"""defense/rules/residual.py: a line through each coordinate's sorted values tells whom to trust."""

import numpy as np
import pytest
import scipy.stats
import torch

from defense.rules.config import ResidualConfig
from defense.rules.residual import correct, judge, repeated_median_slope
from tests.unit.defense.rules.builders import draw, result


def naive(rows, masses, lam, threshold) -> np.ndarray:
    count, width = rows.shape
    trust, corrected = np.empty_like(rows), rows.copy()
    ranks = np.arange(count)
    leverage = 1 / count + (ranks - ranks.mean()) ** 2 / ((ranks - ranks.mean()) ** 2).sum()
    for k in range(width):
        order = np.argsort(rows[:, k])
        values = rows[order, k]
        slope, intercept = scipy.stats.siegelslopes(values, ranks, method="hierarchical")
        residuals = values - (intercept + slope * ranks)
        scale = 1.4826 * (1 + 5 / (count - 1)) * np.median(np.sort(np.abs(residuals))[1:])
        for rank, client in enumerate(order):
            standard = abs(residuals[rank]) / scale / np.sqrt(1 - leverage[rank])
            trust[client, k] = min(1, lam * np.sqrt(2 / count) / standard) if standard else 1
            if trust[client, k] < threshold:
                corrected[client, k] = intercept + slope * rank
    total = (trust * trust.std(axis=0, ddof=1)).sum(axis=1)
    weights = masses * (total / total.max()) ** 2 if total.any() else masses
    return weights @ corrected / weights.sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_is_siegels(seed):
    rows = np.sort(draw(seed, 8).rows, axis=0)
    expected = [scipy.stats.siegelslopes(column).slope for column in rows.T]
    np.testing.assert_allclose(repeated_median_slope(torch.from_numpy(rows)).numpy(), expected, rtol=1e-12)


def test_values_on_a_line_are_trusted_fully_and_an_outlier_is_put_back_on_it():
    # 0.1 is off the line a little, so that the spread is not 0; 1000 is far off and ranks fifth: the line says about 4.
    rows = torch.tensor([[0.1], [1.0], [2.0], [3.05], [1000.0], [-1.0]], dtype=torch.float64)
    slope = repeated_median_slope(rows.sort(0).values)
    trust, line = judge(rows, slope, 2)
    assert trust[4].item() < 0.01
    assert line[4].item() == pytest.approx(4, abs=0.2)
    assert trust[[1, 2]].tolist() == [[1.0], [1.0]]
    assert correct(rows, slope, ResidualConfig())[:, 0].tolist()[:4] == [0.1, 1.0, 2.0, 3.05]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_clients", [3, 6, 11])
@pytest.mark.parametrize(("confidence", "threshold"), [(2, 0.05), (0.5, 0.5)])
def test_a_naive_implementation_agrees(seed, num_clients, confidence, threshold):
    drawn = draw(seed, num_clients)
    found = drawn.result("residual", confidence=confidence, threshold=threshold)
    np.testing.assert_allclose(found, naive(drawn.rows, drawn.masses, confidence, threshold), rtol=1e-9, atol=1e-11)


def test_a_client_that_is_off_everywhere_loses_its_weight():
    rows = draw(0, 10, num_values=30).rows
    rows[4] = 50.0
    honest = np.delete(rows, 4, axis=0).mean(0)
    assert np.abs(result("residual", rows) - honest).max() < 0.5
    assert np.abs(rows.mean(0) - honest).min() > 4


def test_two_clients_are_averaged():
    np.testing.assert_allclose(result("residual", [[0, 4], [4, 0]], [10, 30]), [3, 1], rtol=1e-15)


def test_rounding_is_no_residual():
    # Five float32 values on a line, and off it by 1e-8 only.
    rows_NW = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4]], dtype=torch.float32).double()
    trust_NW, line_NW = judge(rows_NW, repeated_median_slope(rows_NW), 2)
    assert trust_NW.flatten().tolist() == [1.0] * 5
    torch.testing.assert_close(line_NW, rows_NW, rtol=0, atol=1e-7)
