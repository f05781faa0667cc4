"""Folders in the formats of ModelNet, small enough for a test: boxes, a little off their class's proportions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

NAMES = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def box(label: int, number: int) -> np.ndarray:
    """Half the edges of a box, z up, of the class ``label``: each label three times as tall as the one before."""
    generator = np.random.default_rng([label, number])
    return np.array([1.0, 0.6, 0.2 * 3.0**label]) * generator.uniform(0.9, 1.1, 3)


def write_tree(root: Path, classes: int = 3, train: int = 4, test: int = 2) -> Path:
    """``.off`` files of boxes away from the origin: of quads with the quirk in the header, and of triangles."""
    for label, (split, count) in itertools.product(range(classes), (("train", train), ("test", test))):
        name = NAMES[label]
        (root / name / split).mkdir(parents=True)
        for number in range(count):
            number += 0 if split == "train" else train
            corners = np.array(list(itertools.product((-1, 1), repeat=3))) * box(label, number) + 5
            vertices = [" ".join(f"{value:.6f}" for value in corner) for corner in corners]
            if number % 2:
                faces = [f"3 {a} {b} {c}" for a, b, c, _ in _QUADS] + [f"3 {a} {c} {d}" for a, _, c, d in _QUADS]
                header = ["OFF", f"8 {len(faces)} 0"]
            else:
                faces = [f"4 {a} {b} {c} {d}" for a, b, c, d in _QUADS]
                header = [f"OFF8 {len(faces)} 0"]
            path = root / name / split / f"{name}_{number + 1:04d}.off"
            path.write_text("\n".join([*header, *vertices, *faces]) + "\n")
    return root


def hdf5_clouds(label: int, number: int, points: int) -> np.ndarray:
    """``(points, 3)`` float32, y up as in the HDF5 files of ModelNet40, centred in the unit ball."""
    generator = np.random.default_rng([label, number, points])
    x, y, z = (generator.uniform(-1, 1, (points, 3)) * box(label, number)).T
    cloud = np.stack([x, z, -y], 1)
    cloud -= cloud.mean(0)
    return (cloud / np.linalg.norm(cloud, axis=1).max()).astype(np.float32)


def write_hdf5(root: Path, classes: int = 3, train: int = 4, test: int = 2, points: int = 64) -> Path:
    """Two files of training clouds and one of test clouds, with the lists as they come with the real ones."""
    import h5py

    root.mkdir(parents=True)
    (root / "shape_names.txt").write_text("".join(f"{name}\n" for name in NAMES[:classes]))
    files = {"train": {0: range(0, train // 2), 1: range(train // 2, train)}, "test": {0: range(train, train + test)}}
    for split, parts in files.items():
        lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_{split}{part}.h5\n" for part in parts]
        (root / f"{split}_files.txt").write_text("".join(lines))
        for part, numbers in parts.items():
            pairs = [(label, number) for number in numbers for label in range(classes)]
            with h5py.File(root / f"ply_data_{split}{part}.h5", "w") as stored:
                clouds = np.stack([hdf5_clouds(*pair, points) for pair in pairs])
                stored.create_dataset("data", data=clouds, compression="gzip")
                stored.create_dataset("label", data=np.array([[label] for label, _ in pairs], dtype=np.uint8))
    return root
