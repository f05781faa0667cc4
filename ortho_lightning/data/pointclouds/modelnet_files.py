"""Files of ModelNet: the folder of HDF5 files with sampled clouds, and the tree of ``.off`` meshes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ortho_lightning.data.cache import SPLITS, cached
from ortho_lightning.data.module import Split
from ortho_lightning.data.pointclouds.meshes import sample_off
from ortho_lightning.data.pointclouds.points import to_unit_ball, y_up_to_z_up
from ortho_lightning.errors import ConfigurationError, DataError

_HOW_TO_PROVIDE = (
    "Give data.root=PATH as the folder modelnet40_ply_hdf5_2048 with train_files.txt, test_files.txt, shape_names.txt "
    "and .h5 files, or as ModelNet40 or ModelNet10 with <class>/{train,test}/*.off; or as a folder above one of them."
)


def find_modelnet(root: Path, num_classes: int | None) -> Path:
    """Find the folder of the data: ``root`` itself, or one in it named after ModelNet.

    Args:
        root: where to look.
        num_classes: a folder with this number in its name is preferred.

    Raises:
        DataError: if there is none.
    """
    inside = [path for path in sorted(root.glob("[mM]odel[nN]et*")) if path.is_dir()] if root.is_dir() else []
    inside.sort(key=lambda path: not path.name.lower().startswith(f"modelnet{num_classes}"))
    for folder in (root, *inside):
        if has_hdf5(folder) or next(folder.glob("*/train/*.off"), None) or next(folder.glob("*/test/*.off"), None):
            return folder
    found = "holds no ModelNet" if root.exists() else "does not exist"
    raise DataError(f"{root} {found}. {_HOW_TO_PROVIDE}")


# --------------------------------------------------------------------------------------------------------------- HDF5


def has_hdf5(folder: Path) -> bool:
    """Return whether a folder holds the HDF5 files."""
    return any((folder / f"{split}_files.txt").exists() for split in SPLITS) or any(folder.glob("ply_data_*.h5"))


def hdf5_classes(folder: Path) -> list[str]:
    """Return the names of the classes of the HDF5 files."""
    return _listed(folder / "shape_names.txt")


def read_hdf5(folder: Path) -> dict[str, Split]:
    """Read the HDF5 files of both splits.

    Returns:
        Clouds ``(N, P, 3)`` float32, z up, centred, in the unit ball, and labels ``(N,)`` of "train" and "test".

    Raises:
        DataError: for a file that is missing, damaged or contradicts the others, naming it.
        ConfigurationError: without h5py.
    """
    h5py = _h5py()
    names = hdf5_classes(folder)
    files = {split: _files(folder / f"{split}_files.txt") for split in SPLITS}
    twice = [path for path, count in Counter([*files["train"], *files["test"]]).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]} is listed more than once in {folder}'s train_files.txt and test_files.txt")
    data: dict[str, Split] = {}
    points: int | None = None
    for split in SPLITS:
        parts = []
        for path in files[split]:
            parts.append(_read_file(h5py, path, names, points))
            points = parts[0][0].shape[1]
        data[split] = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        absent = sorted(set(range(len(names))) - set(data[split][1].tolist()))
        if absent:
            raise DataError(
                f"{folder}: no cloud in the files of {split}_files.txt is labelled {absent[0]} "
                f"({names[absent[0]]}); is the list complete?"
            )
    return data


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ConfigurationError("reading .h5 files needs h5py: pip install 'ortho-lightning[modelnet]'") from None
    return h5py


def _listed(path: Path) -> list[str]:
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. {_HOW_TO_PROVIDE}") from error
    if not names:
        raise DataError(f"{path} is empty")
    return names


def _files(listing: Path) -> list[Path]:
    """The listed files; the folders in the list are ignored, for they are those of another machine."""
    files = [listing.with_name(PurePosixPath(line).name) for line in _listed(listing)]
    for path in files:
        if not path.is_file():
            raise DataError(f"{path} is missing: {listing.name} lists it")
    return files


def _read_file(h5py: Any, path: Path, names: list[str], points: int | None) -> tuple[Tensor, Tensor]:
    try:
        with h5py.File(path, "r") as stored:
            x, y = (np.asarray(stored[key][()]) for key in ("data", "label"))
    except KeyError:
        raise DataError(f"{path} lacks one of the datasets data and label; it has {_keys(h5py, path)}") from None
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged or not an HDF5 file: {error}") from error
    if x.ndim != 3 or x.shape[2] != 3 or x.shape[1] != (points or x.shape[1]) or x.dtype.kind != "f" or not len(x):
        raise DataError(f"{path}: data is {x.dtype} {x.shape}; it must be floating point (N, {points or 'points'}, 3)")
    if y.shape not in ((len(x), 1), (len(x),)) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: label is {y.dtype} {y.shape}; it must hold integers, ({len(x)}, 1)")
    y = y.reshape(-1).astype(np.int64)
    wrong = (y < 0) | (y >= len(names))
    if wrong.any():
        number = int(wrong.argmax())
        raise DataError(
            f"{path}: cloud {number} is labelled {y[number]}; shape_names.txt names {len(names)} classes, from 0"
        )
    # comparison with the first point detects a cloud of one repeated point regardless of rounding
    broken = ~np.isfinite(x).all((1, 2)) | (x == x[:, :1]).all((1, 2))
    if broken.any():
        raise DataError(f"{path}: cloud {int(broken.argmax())} holds numbers that are not finite, or a single point")
    clouds = torch.from_numpy(x.astype(np.float32))
    return to_unit_ball(y_up_to_z_up(clouds)), torch.from_numpy(y)


def _keys(h5py: Any, path: Path) -> list[str]:
    with h5py.File(path, "r") as stored:
        return sorted(stored)


# ------------------------------------------------------------------------------------------------------------- meshes


def off_tree(folder: Path) -> tuple[list[str], list[Path]]:
    """List the classes of a tree ``<class>/{train,test}/*.off``, by name, and its files.

    Raises:
        DataError: for a class without files in one of the splits, and for a file outside the tree's structure or in
            the folder of another class, naming it.
    """
    files = sorted(path for path in folder.rglob("*.off") if not path.name.startswith("."))  # macOS adds files "._x"
    parts = {path: path.relative_to(folder).parts for path in files}
    for path in files:
        if len(parts[path]) != 3 or parts[path][1] not in SPLITS:
            raise DataError(f"{path} does not lie in {folder}/<class>/train/ or <class>/test/")
    held = {split: {parts[path][0] for path in files if parts[path][1] == split} for split in SPLITS}
    names = sorted(held["train"] | held["test"])
    for path in files:
        label, split, _ = parts[path]
        other = "test" if split == "train" else "train"
        if label not in held[other]:
            raise DataError(f"{path} is of the class {label!r}, which has no .off file in {folder / label / other}")
        own = path.stem.rpartition("_")[0]
        if own != label and own in names:
            raise DataError(f"{path} is a {own} by its name and lies in the folder of the class {label!r}")
    return names, files


def read_off_tree(folder: Path, points: int, cache_dir: Path) -> dict[str, Split]:
    """Draw points from the meshes of a tree, uniformly by area, once; see :func:`read_hdf5`.

    Args:
        folder: of the tree.
        points: points a mesh.
        cache_dir: folder of the cache.

    Raises:
        DataError: see :func:`off_tree` and :func:`ortho_lightning.data.pointclouds.meshes.sample_off`.
    """
    names, files = off_tree(folder)
    return cached(f"modelnet-{points}", folder, files, cache_dir, lambda: _sample(folder, names, files, points))


def _sample(folder: Path, names: list[str], files: list[Path], points: int) -> dict[str, Split]:
    clouds: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    for path in tqdm(files, desc="sampling meshes", disable=None):  # None: not outside a terminal
        label, split, _ = path.relative_to(folder).parts
        cloud = torch.from_numpy(sample_off(path, path.relative_to(folder).as_posix(), points))
        clouds[split].append(to_unit_ball(cloud[None]).to(torch.float32))
        labels[split].append(names.index(label))
    return {split: (torch.cat(clouds[split]), torch.tensor(labels[split])) for split in SPLITS}
