"""Figures: their content, the selection of filters, and that nothing global is touched."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ortho_lightning import functional as OF
from ortho_lightning import plots
from ortho_lightning.errors import ConfigurationError


def layer(*shape):
    kernel = torch.randn(*shape)
    return plots.LayerAngles.of(kernel, OF.angle_statistics(kernel)), kernel


@pytest.mark.parametrize(
    ("shape", "shown", "words"),
    [
        ((1, 12, 5), (1, 12, 12), "all 12 filters"),
        ((1, 600, 5), (1, 256, 256), "256 of 600 filters, evenly spaced"),
        ((4, 64, 5), (4, 64, 64), "all 64 filters, in all 4 groups"),
        ((100, 8, 5), (32, 8, 8), "all 8 filters, in 32 of 100 groups"),
        ((3, 300, 5), (1, 256, 256), "256 of 300 filters, evenly spaced, in 1 of 3 groups"),
    ],
)
def test_at_most_256_filters_are_shown_and_said_to_be(shape, shown, words):
    found, kernel = layer(*shape)
    assert tuple(found.cosines.shape) == shown
    assert found.selection == words
    every = OF.pairwise_cosines(kernel)
    groups, filters = (plots.evenly_spaced(n, m) for n, m in zip(shape[:2], shown[:2], strict=True))
    torch.testing.assert_close(found.cosines, every[groups][:, filters][:, :, filters])
    assert len(set(filters)) == shown[1]


def test_the_density_of_random_directions_has_their_mean_and_standard_deviation():
    degrees = torch.linspace(0, 180, 20_001, dtype=torch.float64)
    for d in (2, 3, 27, 4608):
        density = OF.null_density(degrees, d)
        assert torch.trapezoid(density, degrees).item() == pytest.approx(1.0, rel=1e-4)
        std = torch.trapezoid(density * (degrees - 90) ** 2, degrees).sqrt().item()
        assert std == pytest.approx(OF.null_std(d), rel=1e-3)
    with pytest.raises(ValueError, match="d=1"):
        OF.null_density(degrees, 1)


@pytest.mark.parametrize(("k", "d"), [(9, 5), (5, 9), (4, 1)])
def test_the_histogram_is_drawn_with_the_random_density_and_the_floor(k, d):
    kernel = torch.randn(k, d)
    statistics = OF.angle_statistics(kernel)
    axis = Figure().add_subplot()
    plots.draw_angles(axis, statistics, "blue", "all")
    plots.draw_references(axis, statistics, k)
    (steps,) = axis.patches
    heights, edges, _ = steps.get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(1.0)
    assert edges.tolist() == pytest.approx([2.0 * i for i in range(91)])
    lines = {line.get_label(): line for line in axis.lines}
    assert ("random directions" in lines) == (d >= 2)
    places = sorted(line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1)
    width = math.degrees(math.asin(OF.welch_floor(k, d)))
    assert places == pytest.approx(sorted({90 - width, 90 + width}))


def pixels_of(colour):
    return (np.array(matplotlib.colors.to_rgb(colour)) * 255).round().astype(np.uint8)


def test_colours_tell_the_sign_of_the_cosine_and_grey_what_never_meets():
    kernel = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]])
    picture = plots.layer_picture(plots.LayerAngles.of(kernel, OF.angle_statistics(kernel)), "")
    heat = picture[60:300, 20:320]
    rows, columns = [30, 90, 150, 210], [37, 112, 187, 262]
    seen = heat[np.ix_(rows, columns)].astype(int)
    grey = pixels_of("#BBBBBB")
    red, blue = seen[0, 1], seen[2, 3]
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    for i in range(4):
        assert (seen[i, i] == grey).all()
        assert (seen[i, (i + 2) % 4] == grey).all()


def test_the_filters_of_an_image_layer_are_tiles_of_their_own_colours():
    weight = torch.zeros(4, 3, 5, 5)
    for number, channel in enumerate((0, 1, 2)):
        weight[number, channel] = 0.1
    picture = plots.filter_picture(weight, "")
    assert picture.shape == (420, 420, 3)
    quarters = picture[120, 100], picture[120, 310], picture[320, 100], picture[320, 310]
    for pixel, strongest in zip(quarters, (0, 1, 2), strict=False):
        assert pixel[strongest] > 250
        assert pixel.sum() - pixel[strongest] == pytest.approx(2 * 127.5, abs=2)
    assert quarters[3].tolist() == [127] * 3


@pytest.mark.parametrize("shape", [(300, 7), (5, 1, 3, 3), (6, 4, 3, 3), (4, 2, 3), (3, 1, 2, 2, 2)])
def test_every_kind_of_layer_has_a_figure_of_its_filters(shape):
    assert plots.filter_picture(torch.randn(shape), "").shape == (420, 420, 3)


def test_pyplot_and_its_figures_are_left_alone():
    backend = matplotlib.get_backend()
    before = dict(matplotlib.rcParams)
    plots.layer_picture(layer(1, 6, 4)[0], "")
    assert matplotlib.get_backend() == backend
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()


def test_the_same_filters_give_the_same_pixels():
    found, _ = layer(1, 20, 9)
    assert (plots.layer_picture(found, "x") == plots.layer_picture(found, "x")).all()


def responses(n, k, seed=0):
    """Response statistics of filters whose outputs share a part, so that their angles are below 90 degrees."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, k, generator=generator) + 0.5 * torch.randn(n, 1, generator=generator)
    return OF.response_statistics(outputs), outputs


@pytest.mark.parametrize("n", [2, 7, 32, 89, 100, 768, 2000])
def test_filling_the_steps_of_few_samples_keeps_the_pairs_and_their_mean_and_leaves_no_gaps(n):
    statistics, _ = responses(n, 80)
    filled = plots.fill_steps(statistics.counts.numpy(), n)
    assert filled.sum() == pytest.approx(statistics.pairs)
    assert (filled >= 0).all()
    middles = np.linspace(1, 179, 90)
    assert (filled * middles).sum() / filled.sum() == pytest.approx(statistics.mean, abs=90 / n + 1)
    if n in (32, 89, 100):
        inside = slice(int(statistics.min // 2) + 1, int(statistics.max // 2))
        assert (statistics.counts[inside] == 0).any() or n > 90
        busy = filled[40:45]
        assert busy.min() > 0.5 * busy.max()  # a comb before


def test_filling_spreads_each_angle_over_its_own_step():
    # with two samples: 0, 90 and 180 degrees, and steps of 45, 90 and 45 degrees
    assert plots.fill_steps([2, 0, 6, 4], 2).tolist() == [2, 3, 3, 4]


def test_the_histogram_of_responses_is_drawn_with_the_error_of_independent_ones():
    few, many = responses(64, 20)[0], responses(400, 20)[0]
    axis = Figure().add_subplot()
    plots.draw_responses(axis, few, "green", "before")
    plots.draw_responses(axis, many, "blue", "after")
    plots.draw_response_references(axis, few, many)
    steps = {patch.get_label(): patch for patch in axis.patches}
    for label, statistics in (("before", few), ("after", many)):
        heights, edges, _ = steps[label].get_data()
        assert (heights * np.diff(edges)).sum() == pytest.approx(1.0)
        mean = (heights * np.diff(edges) * (edges[1:] + edges[:-1]) / 2).sum()
        assert mean == pytest.approx(statistics.mean, abs=1.5)
    band = next(patch for label, patch in steps.items() if label.startswith("independent"))
    assert band.get_extents().transformed(axis.transData.inverted()).x0 == pytest.approx(90 - 90 / 8)
    assert band.get_extents().transformed(axis.transData.inverted()).x1 == pytest.approx(90 + 90 / 8)
    (line,) = axis.lines
    assert list(line.get_xdata()) == [90, 90]
    low, high = axis.get_xlim()
    assert low <= max(0, few.mean - 3 * few.std)
    assert high >= 90 + 25


def test_a_layer_has_a_figure_of_one_kind_or_of_both():
    found, _ = layer(1, 20, 9)
    measured, missing = responses(64, 20)[0], OF.response_statistics(torch.empty(0, 20))
    sizes = {
        (340, 800, 3): plots.layer_picture(found, "x"),
        (480, 800, 3): plots.layer_picture(found, "x", measured),
        (340, 480, 3): plots.layer_picture(None, "x", measured),
    }
    assert all(pixels.shape == size for size, pixels in sizes.items())
    green = (sizes[480, 800, 3].astype(int) @ [-1, 2, -1]) > 60
    rows, columns = green.nonzero()
    assert rows.min() > 240  # below the filter angles,
    assert columns.min() > 340  # and beside the cosines
    unmeasured = plots.layer_picture(found, "x", missing)
    assert unmeasured.shape == (480, 800, 3)
    assert not ((unmeasured.astype(int) @ [-1, 2, -1]) > 60).any()
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        plots.layer_picture(None, "x")


def test_a_histogram_is_drawn_to_the_scale_of_its_highest_bin():
    picture = plots.histogram_picture([0.0, 1.0, 2.0, 3.0, 4.0], [1, 0, 4, 2], "four bins")
    assert picture.shape == (240, 360, 3)
    assert picture.dtype == np.uint8
    bar = (picture == [int(plots.BLUE[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
    heights = np.array([bar[:, x].sum() for x in (50, 140, 220, 300)])
    assert heights[1] == 0
    np.testing.assert_allclose(heights / heights[2], [0.25, 0, 1, 0.5], atol=0.01)


def test_a_histogram_without_values_is_drawn_empty():
    empty = plots.histogram_picture([-16.0, -8.0, 0.0], [0, 0], "nothing")
    assert not (empty == [int(plots.BLUE[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).any()
