"""The digits that come with scikit-learn."""

import pytest
import torch

from ortho_lightning.data import DigitsDataModule
from ortho_lightning.errors import ConfigurationError

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def module(**options):
    data = DigitsDataModule(**options)
    data.setup("fit")
    return data


def test_the_three_sets_are_a_partition_of_scikit_learns_images():
    data = module()
    images = torch.cat([data.splits[name][0] for name in ("train", "val", "test")]).mul(16).flatten(1)
    labels = torch.cat([data.splits[name][1] for name in ("train", "val", "test")])
    found = sorted([*row, label] for row, label in zip(images.tolist(), labels.tolist(), strict=True))
    digits = sklearn_datasets.load_digits()
    expected = sorted([*row, label] for row, label in zip(digits.data.tolist(), digits.target.tolist(), strict=True))
    assert found == expected
    assert [len(data.splits[name][0]) for name in ("train", "val", "test")] == [200, 400, 1197]


def test_the_split_depends_on_its_seed_alone():
    first, again, other = module(), module(seed=7), module(split_seed=1)
    assert torch.equal(first.splits["train"][0], again.splits["train"][0])
    assert not torch.equal(first.splits["train"][0], other.splits["train"][0])


def test_a_crop_moves_the_digit_by_a_pixel_at_most():
    data = module(seed=3)
    x, _ = data.splits["train"]
    cropped = data.augmented(x, torch.arange(len(x)), epoch=2)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    shifts = torch.stack([padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    matches = (shifts == cropped).flatten(2).all(-1)
    assert matches.any(0).all()
    assert matches.any(1).all()  # every shift occurs
    assert torch.equal(cropped, data.augmented(x, torch.arange(len(x)), epoch=2))


@pytest.mark.parametrize("options", [{"train_images": 0}, {"val_images": 0}, {"pad": -1}])
def test_counts_are_checked(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        DigitsDataModule(**options)


def test_a_test_set_must_be_left():
    with pytest.raises(ConfigurationError, match="1797 images"):
        module(train_images=1000, val_images=797)
