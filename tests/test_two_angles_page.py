"""docs/two-angles.md: what its figure and its worked example say, from the code that is on the page."""

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import ortho_lightning
from ortho_lightning import functional as OF

DOCS = Path(ortho_lightning.__file__).parents[1] / "docs"
PAGE = (DOCS / "two-angles.md").read_text()


@pytest.fixture(scope="module")
def figure(tmp_path_factory):
    """The names that the block which draws the figure leaves behind."""
    (block,) = [each.split("```")[0] for each in PAGE.split("```python\n")[1:] if "savefig" in each]
    path = tmp_path_factory.mktemp("page") / "two-angles.png"
    names = {}
    exec(compile(block.replace('"two-angles.png"', repr(str(path))), "two-angles.md", "exec"), names)
    assert path.stat().st_size > 10_000
    return names


def test_isotropic_inputs_show_the_filter_angles_up_to_sampling(figure):
    filters, inputs = figure["filters"], figure["inputs"]
    exact, found = OF.pairwise_angles(filters), OF.response_angles(inputs @ filters.T)
    error = (found - exact).square().mean().sqrt().item()
    assert error == pytest.approx(figure["isotropic"].sampling_error, rel=0.1)
    assert figure["isotropic"].std == pytest.approx(figure["of_weights"].std, rel=0.02)


def test_one_sided_inputs_spread_the_response_angles_of_the_same_filters(figure):
    assert figure["one_sided"].std > 2.5 * figure["isotropic"].std


def test_the_page_states_the_numbers_of_its_figure(figure):
    for of in ("of_weights", "isotropic", "one_sided"):
        assert f"{figure[of].std:.1f}°" in PAGE, of


def test_the_response_angle_of_gaussian_inputs_is_the_angle_in_the_metric_of_their_covariance():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    filters = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200_000, 5, generator=generator, dtype=torch.float64) @ root.T
    found = OF.response_angles(inputs @ filters.T)
    expected = OF.pairwise_angles(filters @ root)  # w_i . Sigma w_j with Sigma = root root^T
    assert (found - expected).abs().max() < 5 * 90 / math.sqrt(200_000)


@pytest.mark.parametrize("name", ["flow-penalty.svg", "flow-angles.svg"])
def test_a_diagram_has_a_description_and_colours_for_dark_pages(name):
    text = (DOCS / name).read_text()
    root = ElementTree.fromstring(text)
    tags = {child.tag.rpartition("}")[2] for child in root}
    assert {"title", "desc"} <= tags
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("name", ["flow-penalty.svg", "flow-angles.svg"])
def test_every_file_that_a_diagram_names_is_there(name):
    root = ElementTree.parse(DOCS / name).getroot()
    named = [each.text for each in root.iter() if each.get("class") == "file" and "/" in each.text]
    package = Path(ortho_lightning.__file__).parent
    places = [package, package / "callbacks"]
    assert len(named) >= 6
    for path in named:
        assert any((place / path).exists() for place in places), path
