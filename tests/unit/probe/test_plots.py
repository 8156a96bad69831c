"""probe/plots.py: what the four panels show is what the figures say, and the picture is written."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from probe.plots import draw_evaluation, evaluation_figure
from probe.samples import Samples
from tests.unit.probe.builders import make_samples

SCORES = np.array([0.1, 0.2, 0.4, 0.8, 0.35, 0.55, 0.8, 0.9])
"""Steps 1 and 2 of two benign and of two malicious clients."""


def labelled(steps) -> Samples:
    return make_samples([0] * 4 + [1] * 4, clients=list("aabbccdd"), families=list("ffffgggg"), steps=steps)


SAMPLES = labelled([1, 2] * 4)


def panels(threshold: float = 0.5, samples: Samples = SAMPLES) -> list[Axes]:
    return evaluation_figure(SCORES, samples, threshold).axes


def points(axes: Axes, label: str) -> list[list[float]]:
    """The points of the line whose label begins so."""
    (line,) = (line for line in axes.lines if line.get_label().startswith(label))
    return line.get_xydata().tolist()


def test_every_panel_has_a_title_named_axes_and_a_legend():
    for axes in panels():
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert len(axes.get_legend().get_texts()) >= 2


def test_the_roc_is_drawn_with_its_area_and_the_point_of_the_threshold():
    roc = panels(threshold=0.5)[0]
    curve = points(roc, "AUC")
    assert curve[0] == [0, 0]
    assert curve[-1] == [1, 1]
    # At 0.9, one of 4 malicious; at 0.8, another with one of 4 benign; at 0.55 a third.
    assert [0, 0.25] in curve
    assert [0.25, 0.5] in curve
    # 0.35 is above 2 benign scores, 0.55 above 3, 0.8 above 3 and ties with one, 0.9 above 4: 12.5 of 16 pairs.
    assert roc.get_legend().get_texts()[0].get_text() == f"AUC {12.5 / 16:.3f}"
    assert points(roc, "threshold 0.5") == [[0.25, 0.75]]


def test_precision_is_drawn_over_recall_with_the_point_of_the_threshold():
    precision = panels(threshold=0.5)[1]
    # At 0.9 precision 1; at 0.8 2/3; at 0.55 3/4; at 0.35 4 of 6.
    expected = [[1, 4 / 8], [1, 4 / 7], [1, 4 / 6], [0.75, 3 / 5], [0.75, 3 / 4], [0.5, 2 / 3], [0.25, 1], [0, 1]]
    np.testing.assert_allclose(points(precision, "average precision"), expected)
    average = (1 + 2 / 3 + 3 / 4 + 4 / 6) / 4
    assert precision.get_legend().get_texts()[0].get_text() == f"average precision {average:.3f}"
    assert points(precision, "threshold 0.5") == [[0.75, 0.75]]


def test_a_threshold_above_all_scores_has_no_precision_to_mark():
    roc, precision, _, _ = panels(threshold=0.95)
    assert points(roc, "threshold 0.95") == [[0, 0]]
    assert [text.get_text() for text in precision.get_legend().get_texts()][1:] == ["chance"]


def test_the_dots_of_the_reliability_lie_at_the_mean_score_and_malicious_share_of_their_bins():
    (dots,) = panels()[2].collections
    expected = [[0.1, 0], [0.2, 0], [0.35, 1], [0.4, 0], [0.55, 1], [0.8, 0.5], [0.9, 1]]
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), expected)
    # Two of the samples lie in one bin, and each of the others in one of its own.
    sizes = dots.get_sizes()
    assert sizes[5] > sizes[0] == sizes[6]


def test_the_median_of_each_class_is_drawn_at_each_step_in_its_band():
    steps = panels()[3]
    np.testing.assert_allclose(points(steps, "benign"), [[1, 0.25], [2, 0.5]])
    np.testing.assert_allclose(points(steps, "malicious"), [[1, 0.575], [2, 0.725]])
    assert [y for _, y in points(steps, "threshold 0.5")] == [0.5, 0.5]
    malicious, benign = (band.get_paths()[0].vertices for band in steps.collections)
    # Of two scores, 5 % and 95 % of the way from the lower to the higher.
    assert sorted({round(y, 9) for x, y in benign if x == 1}) == pytest.approx([0.115, 0.385])
    assert sorted({round(y, 9) for x, y in malicious if x == 2}) == pytest.approx([0.5675, 0.8825])
    colours = {line.get_color() for line in steps.lines}
    assert len(colours) == 3


def test_a_step_of_one_class_only_is_drawn_for_it():
    steps = panels(samples=labelled([1, 1, 1, 1, 1, 3, 1, 3]))[3]
    assert [x for x, _ in points(steps, "benign")] == [1]
    assert [x for x, _ in points(steps, "malicious")] == [1, 3]


def test_the_picture_is_written_of_a_single_step_too(tmp_path):
    path = draw_evaluation(tmp_path, SCORES, labelled([1] * 8), 0.5)
    assert path == tmp_path / "evaluation.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 800
        shown = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0, 0, 0)} <= shown


@pytest.mark.parametrize(("scores", "message"), [(SCORES[:7], "one score per sample"), (SCORES * math.nan, "score nan")])
def test_unusable_scores_are_refused_before_a_file_is_written(tmp_path, scores, message):
    with pytest.raises(ValueError, match=message):
        draw_evaluation(tmp_path, scores, SAMPLES, 0.5)
    assert not list(tmp_path.iterdir())
