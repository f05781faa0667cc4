"""docs/inside.md: its map of the modules is complete, and the costs it states are those of the code."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import ortho_lightning
from ortho_lightning import functional as OF

PACKAGE = Path(ortho_lightning.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "inside.md").read_text()


@pytest.mark.parametrize("room", ["callbacks", "layers"])
def test_every_module_is_on_the_map(room):
    for path in (PACKAGE / room).rglob("*.py"):
        inside = path.relative_to(PACKAGE / room)
        folders = {f"`{parent.as_posix()}/`" for parent in inside.parents} | {f"`{inside.parent.name}/`"}
        known = f"{inside.name}`" in PAGE or any(folder in PAGE for folder in folders)
        assert known or inside.name == "__init__.py", inside


def test_every_room_of_the_package_is_on_the_map():
    for path in PACKAGE.iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in PAGE, path.name
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert f"`{path.name}`" in PAGE, path.name


def measured(penalty, tensor):
    """Return the products of a penalty with its gradient, and the bytes that are kept for the way back."""
    kept = []

    def keep(saved):
        if saved is not tensor:
            kept.append(saved.numel() * saved.element_size())
        return saved

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            value = penalty(tensor)
        value.backward()
    return counter.get_total_flops() / 2, sum(kept)


@pytest.mark.parametrize(
    ("penalty", "shape", "products", "kept"),
    [
        (lambda z: OF.lsh_penalty(z, lambda1=0.0), (96, 24), 2 * 96 * 24**2, 4 * 24**2),
        (lambda z: OF.lsh_penalty(z, lambda1=0.0), (24, 96), 2 * 24**2 * 96, 4 * 24**2),
        (OF.gram_penalty, (24, 96), 2 * 24 * 96 * 24, 4 * 24**2),
        (OF.gram_penalty, (96, 24), 2 * 96 * 24 * 24, 4 * 24**2),
    ],
)
def test_the_products_and_bytes_of_a_penalty_are_those_of_the_table(penalty, shape, products, kept):
    found = measured(penalty, torch.randn(*shape, requires_grad=True))
    assert found[0] == products
    assert found[1] == pytest.approx(kept, abs=4 * (max(shape) + 1))  # and a length or two of each filter


def test_the_closed_form_of_the_similarity_takes_two_products():
    def penalty(kernel):
        return OF.similarity_penalty(OF.lsh_similarity_exact(kernel), lambda1=0.0)

    assert measured(penalty, torch.randn(24, 96, requires_grad=True))[0] == 2 * 24**2 * 96
