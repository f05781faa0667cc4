"""ModelNet40 and ModelNet10 (Wu et al., CVPR 2015): point clouds of furniture, vehicles and other objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from ortho_lightning import random
from ortho_lightning.data.module import Split, TensorDataModule
from ortho_lightning.data.pointclouds import points as clouds
from ortho_lightning.data.pointclouds.modelnet_files import (
    find_modelnet,
    has_hdf5,
    hdf5_classes,
    off_tree,
    read_hdf5,
    read_off_tree,
)
from ortho_lightning.data.pointclouds.perturbations import Perturbation, cloud_perturbations
from ortho_lightning.errors import ConfigurationError

# Training and test clouds of the whole sets; three training clouds are missing from the HDF5 files of the 40 classes.
_SIZES = {40: ((9843, 2468), (9840, 2468)), 10: ((3991, 908),)}


class ModelNetDataModule(TensorDataModule):
    """ModelNet with a seeded validation split, held in memory and augmented by batches on the device; z up.

    Args:
        root: the folder ``modelnet40_ply_hdf5_2048`` of HDF5 files; or a tree ``<class>/{train,test}/*.off``, from
            whose meshes points are drawn; or a folder above one of them.
        num_classes: number of classes that the files must have; None: any.
        points: points a cloud, a subset of those in the files: the same subset in validation and test, another one in
            each training epoch.
        surface_points: points drawn from each mesh of a tree, uniformly by area.
        cache_dir: folder of the cache; the points of a tree are drawn once.
        batch_size: clouds a batch and process.
        eval_batch_size: clouds a batch in validation and test.
        val_share: share of each class's training clouds held out for validation, the same for each ``split_seed``.
        augment: whether training clouds are augmented, by the next six arguments.
        turn: turn by a random angle about the up axis.
        scale: smallest and largest factor of the size.
        anisotropic: draw another factor for each axis.
        jitter: standard deviation of the noise on each coordinate, in radii of the cloud.
        jitter_clip: largest noise.
        dropout: largest share of the points left out at random; each cloud has its own.
        seed: of the order and the augmentation.
        split_seed: of the validation split and of the points in validation and test.

    Raises:
        ConfigurationError: for values outside their range, or another number of classes in the files.
        DataError: if the data is missing or damaged; the message names the file and the cause.
    """

    def __init__(
        self,
        root: str,
        num_classes: int | None = 40,
        points: int = 1024,
        surface_points: int = 2048,
        cache_dir: str = "~/.cache/ortho_lightning",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        val_share: float = 0.1,
        augment: bool = True,
        turn: bool = True,
        scale: Sequence[float] = (0.8, 1.25),
        anisotropic: bool = False,
        jitter: float = 0.01,
        jitter_clip: float = 0.05,
        dropout: float = 0.875,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, augment)
        if num_classes is not None and num_classes < 2:
            raise ConfigurationError(f"num_classes={num_classes}: must be 2 or more")
        if not 2 <= points <= surface_points:
            raise ConfigurationError(
                f"points={points}, surface_points={surface_points}: points must be 2 or more, surface_points no fewer"
            )
        if not 0 < val_share < 1 or not 0 <= dropout <= 1:
            raise ConfigurationError(
                f"val_share={val_share}, dropout={dropout}: val_share must be between 0 and 1, dropout in [0, 1]"
            )
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigurationError(f"scale={list(scale)}: must be two factors above 0, the smaller one first")
        if jitter < 0 or jitter_clip < 0:
            raise ConfigurationError(f"jitter={jitter}, jitter_clip={jitter_clip}: must be 0 or more")
        self.root = Path(root).expanduser()
        self.num_classes = num_classes
        self.points = points
        self.surface_points = surface_points
        self.cache_dir = Path(cache_dir).expanduser()
        self.val_share = val_share
        self.turn = turn
        self.scale = (float(scale[0]), float(scale[1]))
        self.anisotropic = anisotropic
        self.jitter = jitter
        self.jitter_clip = jitter_clip
        self.dropout = dropout
        self.split_seed = split_seed
        self.classes: tuple[str, ...] = ()

    def prepare_data(self) -> None:
        """Draw the points of a tree, once per machine."""
        if not self.splits:  # Lightning calls this again before every test
            self._load()

    def setup(self, stage: str) -> None:
        """Load the data and split it."""
        if self.splits:
            return
        data, classes = self._load()
        x, y = data["train"]
        if x.shape[1] < self.points:
            raise ConfigurationError(f"points={self.points}: the clouds in {self.root} have {x.shape[1]} points")
        train, val = stratified(y, self.val_share, self.split_seed)
        if not len(val):
            raise ConfigurationError(
                f"val_share={self.val_share}: nothing of the {len(x)} training clouds, as every class has too few"
            )
        self.classes, self.num_classes = classes, len(classes)
        self._warn_of_missing(len(x), len(data["test"][0]))
        splits = {"train": (x[train], y[train]), "val": (x[val], y[val]), "test": data["test"]}
        for number, (split, (x, y)) in enumerate(splits.items()):
            if split != "train" or not self.augment:
                x = self._subset(x, torch.arange(len(x)), self.split_seed, number)
            self.splits[split] = (x, y)

    def _load(self) -> tuple[dict[str, Split], tuple[str, ...]]:
        folder = find_modelnet(self.root, self.num_classes)
        classes = hdf5_classes(folder) if has_hdf5(folder) else off_tree(folder)[0]
        if self.num_classes not in (None, len(classes)):
            raise ConfigurationError(
                f"num_classes={self.num_classes}: {folder} has {len(classes)} classes, from {classes[0]} to "
                f"{classes[-1]}. Choose the experiment of that number, modelnet40 or modelnet10, or say "
                f"data.num_classes={len(classes)}"
            )
        data = read_hdf5(folder) if has_hdf5(folder) else read_off_tree(folder, self.surface_points, self.cache_dir)
        return data, tuple(classes)

    def _warn_of_missing(self, *sizes: int) -> None:
        count = len(self.classes)
        if sizes not in _SIZES.get(count, (sizes,)):
            whole = " and ".join(map(str, _SIZES[count][0]))
            rank_zero_warn(
                f"{self.root} has {sizes[0]} training and {sizes[1]} test clouds; the whole ModelNet{count} has {whole}"
            )

    def _subset(self, x: Tensor, index: Tensor, *key: int) -> Tensor:
        return x if x.shape[1] == self.points else clouds.subset(x, index, self.points, *key)

    def prepare(self, x: Tensor) -> Tensor:
        """Return the clouds with the coordinates as channels."""
        return x.mT.contiguous()

    def augmented(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Drop points, turn, scale and jitter, each as configured."""
        key = (self.seed, epoch)
        x = self._subset(x, index, *key, 0)
        if self.dropout > 0:
            share = self.dropout * random.uniform(index, 1, *key, 1).squeeze(1)
            x = clouds.dropped(x, index, share, *key, 2)
        if self.turn:
            x = clouds.turned(x, index, *key, 3)
        x = clouds.scaled(x, index, *self.scale, self.anisotropic, *key, 4)
        return clouds.jittered(x, index, self.jitter, self.jitter_clip, *key, 5)

    def perturbations(self) -> dict[str, Perturbation]:
        """Return the perturbations of point clouds."""
        return cloud_perturbations(0)


def stratified(y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a share of every class at random, rounded.

    Args:
        y: ``(N,)`` labels.
        share: between 0 and 1; at least one sample of a class is kept.
        seed: of the choice.

    Returns:
        Indices of the samples that are kept and of those held out, both in order.
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    order = order[y[order].argsort(stable=True)]  # class by class, at random within each
    counts = torch.bincount(y)
    held = torch.minimum((share * counts).round().long(), (counts - 1).clamp(min=0))
    place = torch.arange(len(y)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    chosen = place < held.repeat_interleave(counts)
    return order[~chosen].sort().values, order[chosen].sort().values
