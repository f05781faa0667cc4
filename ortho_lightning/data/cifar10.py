"""CIFAR-10 in memory, from torchvision's files or from a tree or archive of images."""

from __future__ import annotations

import io
import lzma
import os
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from ortho_lightning import random
from ortho_lightning.data.cache import cached
from ortho_lightning.data.module import Split, TensorDataModule
from ortho_lightning.errors import ConfigurationError, DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)
_SIZES = {"train": 50_000, "test": 10_000}
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")


class CIFAR10DataModule(TensorDataModule):
    """CIFAR-10 with a seeded validation split, held in memory and augmented by batches on the device.

    Args:
        root: a folder with torchvision's ``cifar-10-batches-py``; or a tree ``{train,test}/<class>/*.png|jpg``; or a
            tar archive of such a tree (or a folder with one such archive); or the folder to download to.
        download: download the data with torchvision if ``root`` has none.
        cache_dir: folder of the cache; a tree or archive is decoded once.
        batch_size: images a batch and process.
        eval_batch_size: images a batch in validation and test.
        val_images: training images held out for validation, the same for each ``split_seed``.
        train_images: how many of the others to use; None: all.
        classes: names of the classes to keep, whose labels are then 0, 1, ... in this order; None: all ten. The images
            are held out before the others are left out, so each class keeps its own split.
        pad: pixels of zero padding from which a random crop is taken, 0 for none.
        flip: mirror half of the images.
        augment: whether training batches are cropped and mirrored at all.
        seed: of the order and the augmentation.
        split_seed: of the validation split.

    Raises:
        DataError: if the data is missing or damaged; the message names the file and the remedy.
    """

    num_classes = len(CLASSES)

    def __init__(
        self,
        root: str,
        download: bool = False,
        cache_dir: str = "~/.cache/ortho_lightning",
        batch_size: int = 128,
        eval_batch_size: int = 500,
        val_images: int = 5000,
        train_images: int | None = None,
        pad: int = 4,
        flip: bool = True,
        augment: bool = True,
        seed: int = 0,
        split_seed: int = 0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, augment)
        unknown = sorted(set(classes or ()) - set(CLASSES))
        if unknown or (classes is not None and len(set(classes)) != max(len(classes), 2)):
            raise ConfigurationError(
                f"classes={list(classes or ())}: must be two or more of {list(CLASSES)}, each once"
            )
        if not isinstance(download, bool):
            raise ConfigurationError(f"download={download!r}: must be true or false")
        if val_images < 1 or (train_images is not None and train_images < 1) or pad < 0:
            raise ConfigurationError(
                f"val_images={val_images}, train_images={train_images}, pad={pad}: "
                "counts must be 1 or more, pad 0 or more"
            )
        self.root = Path(root).expanduser()
        self.download = download
        self.cache_dir = Path(cache_dir).expanduser()
        self.val_images = val_images
        self.train_images = train_images
        self.pad = pad
        self.flip = flip
        self.split_seed = split_seed
        self.classes = None if classes is None else tuple(classes)
        self.num_classes = len(self.classes or CLASSES)

    def prepare_data(self) -> None:
        """Download or decode the data, once per machine."""
        load_cifar10(self.root, self.cache_dir, self.download)

    def setup(self, stage: str) -> None:
        """Load the data and split it."""
        if self.splits:
            return
        data = load_cifar10(self.root, self.cache_dir, download=False)
        x, y = data["train"]
        kept = len(x) - self.val_images
        if kept < (self.train_images or 1):
            raise ConfigurationError(
                f"val_images={self.val_images}, train_images={self.train_images}: "
                f"{self.root} has {len(x)} training images"
            )
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.split_seed))
        val, train = order[: self.val_images], order[self.val_images :][: self.train_images]
        whole = {"train": (x[train], y[train]), "val": (x[val], y[val]), "test": data["test"]}
        splits = {name: _of_classes(split, self.classes) for name, split in whole.items()}
        empty = [name for name, (x, _) in splits.items() if not len(x)]
        if empty:
            raise ConfigurationError(
                f"classes={list(self.classes or ())}: {empty[0]} has no image of them; use more images or other classes"
            )
        self.splits = splits

    def prepare(self, x: Tensor) -> Tensor:
        """Standardize the colours of a batch."""
        scale = 1 / (255 * x.new_tensor(_STD, dtype=torch.float32)).view(3, 1, 1)
        shift = (x.new_tensor(_MEAN, dtype=torch.float32) / x.new_tensor(_STD, dtype=torch.float32)).view(3, 1, 1)
        return x.to(torch.float32).mul_(scale).sub_(shift)

    def augmented(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Crop and mirror a batch at random."""
        draws = random.uniform(index, 3, self.seed, epoch)
        offsets = (draws[:, :2] * (2 * self.pad + 1)).long()
        mirrored = (draws[:, 2] < 0.5) & self.flip
        return crop_and_flip(x, self.pad, offsets, mirrored)


def _of_classes(split: Split, classes: Sequence[str] | None) -> Split:
    """Return the images of some classes, which are numbered anew, from 0."""
    if classes is None:
        return split
    x, y = split
    number = torch.full((len(CLASSES),), -1)
    number[[CLASSES.index(name) for name in classes]] = torch.arange(len(classes))
    kept = number[y] >= 0
    return x[kept], number[y[kept]]


def crop_and_flip(x: Tensor, pad: int, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Pad images with zeros, crop each at its own offset to its original size, and mirror some, in one gather.

    Args:
        x: ``(B, C, H, W)``.
        pad: pixels on every side.
        offsets: ``(B, 2)``, vertical and horizontal, in [0, 2 pad].
        mirrored: ``(B,)`` bool.
    """
    batch, channels, height, width = x.shape
    padded = F.pad(x, (pad, pad, pad, pad))
    rows = offsets[:, :1] + torch.arange(height, device=x.device)
    along = torch.arange(width, device=x.device)
    columns = offsets[:, 1:] + torch.where(mirrored[:, None], width - 1 - along, along)
    flat = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
    flat = flat.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, flat).view(batch, channels, height, width)


# ------------------------------------------------------------------------------------------------------------ reading


def load_cifar10(root: Path, cache_dir: Path, download: bool) -> dict[str, Split]:
    """Load images ``(N, 3, 32, 32)`` uint8 and labels ``(N,)`` of "train" and "test".

    Args:
        root: see :class:`CIFAR10DataModule`.
        cache_dir: folder of the cache.
        download: download the data if ``root`` has none.

    Raises:
        DataError: see :class:`CIFAR10DataModule`.
    """
    archives = sorted(root.glob("*.tar*")) if root.is_dir() else []
    if (root / "cifar-10-batches-py").is_dir():
        return _from_torchvision(root, download=False)
    if root.is_file():
        return _cached(root, cache_dir)
    if (root / "train").is_dir():
        return _cached(root, cache_dir)
    if len(archives) == 1 and not archives[0].name.startswith("cifar-10-python"):
        return _cached(archives[0], cache_dir)
    if download:
        return _from_torchvision(root, download=True)
    found = "does not exist" if not root.exists() else "holds no CIFAR-10"
    raise DataError(f"{root} {found}. {_HOW_TO_PROVIDE}")


_HOW_TO_PROVIDE = (
    "Give data.root=PATH as a folder with torchvision's cifar-10-batches-py, a tree {train,test}/<class>/*.jpg or"
    " *.png, or a .tar or .tar.xz of such a tree; or let it be downloaded with data.download=true."
)


def _from_torchvision(root: Path, download: bool) -> dict[str, Split]:
    try:
        sets = {split: torchvision.datasets.CIFAR10(str(root), split == "train", download=download) for split in _SIZES}
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        if download:
            raise DataError(f"CIFAR-10 could not be downloaded to {root}: {error}. {_HOW_TO_PROVIDE}") from error
        raise DataError(f"{root / 'cifar-10-batches-py'} is damaged: {error}. {_HOW_TO_PROVIDE}") from error
    return {
        split: (torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets))
        for split, data in sets.items()
    }


def _cached(source: Path, cache_dir: Path) -> dict[str, Split]:
    files = [path for path in source.rglob("*") if _is_image(path.name)] if source.is_dir() else [source]
    return cached("cifar10", source, files, cache_dir, lambda: _decode(source))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_IMAGE_ENDINGS)


def _decode(source: Path) -> dict[str, Split]:
    images: dict[tuple[str, str, str], Tensor] = {}
    for name, content in _image_files(source):
        parts = Path(name).parts
        if len(parts) < 3 or parts[-3] not in _SIZES:
            raise DataError(f"{source}: {name} does not lie in train/<class>/ or test/<class>/")
        try:
            with Image.open(io.BytesIO(content)) as opened:
                image = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise DataError(f"{source}: {name} is not a readable image: {error}") from error
        if image.shape != (3, 32, 32):
            size = " x ".join(map(str, image.shape[1:]))
            raise DataError(f"{source}: {name} is {size} pixels; CIFAR-10 images are 32 x 32")
        images[parts[-3], parts[-2], parts[-1]] = image
    data = {}
    for split, expected in _SIZES.items():
        found = {key[1] for key in images if key[0] == split}
        if found != set(CLASSES):
            missing, unknown = sorted(set(CLASSES) - found), sorted(found - set(CLASSES))
            raise DataError(f"{source}: {split}/ lacks the classes {missing} and has the unknown classes {unknown}")
        keys = sorted(key for key in images if key[0] == split)
        if len(keys) != expected:
            rank_zero_warn(f"{source}: {split}/ has {len(keys)} images; the whole CIFAR-10 has {expected}.")
        labels = torch.tensor([CLASSES.index(key[1]) for key in keys])
        data[split] = (torch.stack([images[key] for key in keys]), labels)
    return data


def _image_files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for folder, _, names in os.walk(source):
            for name in names:
                if _is_image(name):
                    path = Path(folder, name)
                    yield str(path.relative_to(source)), path.read_bytes()
        return
    read = 0
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and _is_image(member.name):
                    stream = archive.extractfile(member)
                    content = stream.read() if stream is not None else b""
                    if len(content) != member.size:
                        raise EOFError(f"{member.name} is truncated")
                    read += 1
                    yield member.name, content
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{source} is damaged or not a tar archive (after {read} images): {error}") from error
