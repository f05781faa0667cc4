"""Figures of both kinds of angle: what their panels hold, whichever layers and arms there are."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ortho_lightning import functional as OF
from ortho_lightning.experiments.report.angles import compared_angles, compared_angles_png, layer_angles
from ortho_lightning.experiments.report.documents import write_report
from ortho_lightning.experiments.report.panels import draw_filter_angles, draw_response_angles
from ortho_lightning.experiments.report.style import LIGHT, styles
from tests.experiments.synthetic import ARMS, comparison, full, run, scores

SHAPES = ((32, 9), (16, 27))


@pytest.fixture(scope="module")
def summary():
    return comparison([run(arm, seed, epochs=1, shapes=SHAPES) for arm in ARMS for seed in (0, 1)]).summary


def drawn_panel(draw, summary, layer=0):
    axis = Figure(figsize=(3, 2)).add_subplot()
    draw(axis, LIGHT, summary.layers[layer], styles(summary.arm_names, summary.baseline))
    return axis


def without_responses(summary):
    def stripped(layer):
        return replace(layer, arms={arm: replace(one, response_counts=()) for arm, one in layer.arms.items()})

    return replace(summary, layers=tuple(map(stripped, summary.layers)))


@pytest.mark.parametrize(
    ("draw", "std"), [(draw_filter_angles, "std"), (draw_response_angles, "response_std")], ids=["filter", "response"]
)
def test_a_panel_has_a_line_an_arm_with_the_moments_of_its_angles(summary, draw, std):
    axis = drawn_panel(draw, summary)
    lines = {step.get_label(): step for step in axis.patches}
    assert list(lines) == list(ARMS)
    texts = [text.get_text() for text in axis.texts]
    arms = styles(summary.arm_names, summary.baseline)
    for arm, line in lines.items():
        heights, edges, _ = line.get_data()
        middles = (edges[1:] + edges[:-1]) / 2
        shares = heights * np.diff(edges)
        assert shares.sum() == pytest.approx(1.0)
        measures = summary.layers[0].arms[arm].measures
        mean = (shares * middles).sum()
        assert np.sqrt((shares * (middles - mean) ** 2).sum()) == pytest.approx(measures[std], rel=0.05)
        assert to_rgba(line.get_edgecolor()) == to_rgba(arms[arm].colour(LIGHT))
        assert f"{arm}: std {measures[std]:.1f}°" in texts


def test_filter_angles_lie_on_random_directions_and_response_angles_on_a_line_at_90_degrees(summary):
    filters, responses = (drawn_panel(draw, summary) for draw in (draw_filter_angles, draw_response_angles))
    (area,) = filters.collections
    vertices = area.get_paths()[0].vertices
    peak = vertices[vertices[:, 1].argmax()]
    assert peak[0] == pytest.approx(90, abs=1.5)
    assert peak[1] == pytest.approx(OF.null_density(torch.tensor([90.0]), summary.layers[0].d).item(), rel=0.01)
    assert not filters.lines
    (line,) = responses.lines
    assert list(line.get_xdata()) == [90, 90]
    assert not responses.collections


def test_the_deviations_are_written_above_the_lines(summary):
    for draw in (draw_filter_angles, draw_response_angles):
        axis = drawn_panel(draw, summary)
        figure = axis.figure
        figure.canvas.draw()
        lowest = min(text.get_window_extent().y0 for text in axis.texts)
        highest = max(step.get_data().values.max() for step in axis.patches)
        assert axis.transData.transform((90, highest))[1] < lowest


def test_a_layer_whose_responses_were_not_measured_says_so(summary):
    axis = drawn_panel(draw_response_angles, without_responses(summary))
    assert [text.get_text() for text in axis.texts] == ["not measured"]
    assert not axis.patches


def test_a_row_of_response_angles_is_there_where_any_layer_has_them(summary):
    (both,) = compared_angles(summary)
    (one_kind,) = compared_angles(without_responses(summary))
    assert both.width == one_kind.width
    assert both.height > 1.5 * one_kind.height
    for figures in (layer_angles(summary), layer_angles(without_responses(summary))):
        assert [figure.title for figure in figures] == ["net.stage0.conv", "net.stage1.conv"]


def test_at_most_four_layers_stand_side_by_side():
    (figure,) = compared_angles(full().summary)  # seven layers
    picked = ("net.stage0.conv", "net.stage1.conv", "net.stage3.conv", "net.stage5.conv")
    assert all(name in figure.alt for name in picked)
    assert "net.stage6.conv" not in figure.alt


def test_the_png_is_on_white_opaque_and_the_same_for_the_same_comparison(summary, tmp_path):
    content = compared_angles_png(summary)
    assert content == compared_angles_png(summary)
    (tmp_path / "x.png").write_bytes(content)
    pixels = plt.imread(tmp_path / "x.png")
    assert pixels.shape[1] >= 800
    assert pixels[0, 0, :3].tolist() == [1.0, 1.0, 1.0]
    assert (pixels[..., 3:] == 1.0).all()


def test_without_angles_there_is_no_figure_and_none_of_an_earlier_report(tmp_path):
    write_report(tmp_path, comparison([run("none", 0, epochs=1, shapes=SHAPES)]))
    assert (tmp_path / "angles.png").read_bytes().startswith(b"\x89PNG")
    without = comparison(scores("none", [0.5, 0.6]))
    assert list(compared_angles(without.summary)) == []
    write_report(tmp_path, without)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "results.csv"}
