"""Handwritten digits of 8 x 8 pixels that come with scikit-learn: a data set of seconds, without a download."""

from __future__ import annotations

import torch
from torch import Tensor

from ortho_lightning import random
from ortho_lightning.data.cifar10 import crop_and_flip
from ortho_lightning.data.module import TensorDataModule
from ortho_lightning.errors import ConfigurationError

CLASSES = tuple("0123456789")
_LARGEST = 16.0  # pixels are 0 to 16


class DigitsDataModule(TensorDataModule):
    """The 1,797 digits of :func:`sklearn.datasets.load_digits`, of which few are trained on.

    Args:
        train_images: images to train on; with all of them every method is right almost always.
        val_images: images of the validation set; the others are the test set.
        pad: pixels of zero padding from which a random crop is taken, 0 for none.
        batch_size: images a batch and process.
        eval_batch_size: images a batch in validation and test.
        augment: whether training batches are cropped at all.
        seed: of the order and the augmentation.
        split_seed: of the three sets.

    Raises:
        ConfigurationError: for counts that leave a set without images; from ``setup`` without scikit-learn.
    """

    num_classes = len(CLASSES)

    def __init__(
        self,
        train_images: int = 200,
        val_images: int = 400,
        pad: int = 1,
        batch_size: int = 50,
        eval_batch_size: int = 600,
        augment: bool = True,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, augment)
        if train_images < 1 or val_images < 1 or pad < 0:
            raise ConfigurationError(
                f"train_images={train_images}, val_images={val_images}, pad={pad}: "
                "counts must be 1 or more, pad 0 or more"
            )
        self.train_images = train_images
        self.val_images = val_images
        self.pad = pad
        self.split_seed = split_seed

    def setup(self, stage: str) -> None:
        """Load the images and split them."""
        if self.splits:
            return
        x, y = _load()
        kept = self.train_images + self.val_images
        if kept >= len(x):
            raise ConfigurationError(
                f"train_images={self.train_images}, val_images={self.val_images}: there are {len(x)} images, and none "
                "would be left for the test"
            )
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.split_seed))
        parts = {"train": order[: self.train_images], "val": order[self.train_images : kept], "test": order[kept:]}
        self.splits = {name: (x[part], y[part]) for name, part in parts.items()}

    def prepare(self, x: Tensor) -> Tensor:
        """Return the batch as it is: the pixels are in [0, 1]."""
        return x

    def augmented(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Crop a batch at random."""
        offsets = (random.uniform(index, 2, self.seed, epoch) * (2 * self.pad + 1)).long()
        return crop_and_flip(x, self.pad, offsets, torch.zeros(len(x), dtype=torch.bool, device=x.device))


def _load() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigurationError(
            "data=digits needs scikit-learn: pip install 'ortho-lightning[scikit-learn]'"
        ) from None
    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32).div_(_LARGEST).unsqueeze(1)
    return images, torch.from_numpy(digits.target).to(torch.int64)
