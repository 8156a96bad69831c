"""Pictures are drawn for every shape of run."""

import pytest
from PIL import Image

from cluster.reporting.pictures import draw_comparison, draw_curves, draw_run
from tests.unit.cluster.builders import evaluation_report, round_report


def test_a_run_is_drawn(tmp_path):
    rounds = [round_report(0, {"a": 1.0, "b": 0.0}), round_report(1, {"a": None, "b": 0.5}, outcome="rolled_back")]
    path = draw_run(tmp_path, rounds, [evaluation_report(0, 1.0), evaluation_report(2, 0.5)], {"b"})
    with Image.open(path) as image:
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_the_measures_of_a_realigned_adapter_are_in_the_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("cluster.reporting.pictures.plt.close", drawn.append)
    draw_run(tmp_path, [round_report(0, {"a": 1.0})], [evaluation_report(done, 0.5) for done in (0, 1, 2)], set())
    below = drawn[0].axes[1]
    assert below.get_xlim()[1] > 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda folder: draw_run(folder, [round_report(0, {"a": 1.0})], [], set()),
        lambda folder: draw_comparison(folder, {"rule score": {"none": {"3 malicious": None}}}),
        lambda folder: draw_curves(folder, {"none": [(0, 1.0), (10, 0.0)], "shadow": [(0, 1.0), (10, 1.0)]}),
    ],
    ids=["a run without measures", "a comparison of failed cells", "curves"],
)
def test_a_picture_is_written(tmp_path, draw):
    assert draw(tmp_path).is_file()


def test_a_comparison_is_drawn_with_failed_and_absent_cells(tmp_path):
    grid = {"none": {"0 malicious": 1.0, "alie, 3 malicious": 0.0}, "live+canary": {"0 malicious": None}}
    path = draw_comparison(tmp_path, {"rule score": grid, "utility": grid})
    with Image.open(path) as image:
        assert image.size[0] > image.size[1] > 200


def test_many_attacks_run_down_the_page(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("cluster.reporting.pictures.plt.close", drawn.append)
    values = {f"attack-{i}, 3 malicious": i / 20 for i in range(20)} | {"late, 3 malicious": None}
    with Image.open(draw_comparison(tmp_path, {"rule score": {"live+canary": values}, "utility": {"live+canary": {}}})) as image:
        assert 400 < image.size[0] < image.size[1] < 2000
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(values)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["live+\ncanary"]
    assert [text.get_text() for text in axes.texts] == [f"{i / 20:.3f}" for i in range(20)] + ["failed"]
