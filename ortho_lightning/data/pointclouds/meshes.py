"""Triangle meshes from ``.off`` files, and points drawn uniformly from their surface."""

from __future__ import annotations

import math
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch

from ortho_lightning.errors import DataError
from ortho_lightning.random import mix


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an ``.off`` file; polygons become fans of triangles.

    The counts may follow the word OFF on the same line, as in many files of ModelNet40. Colours of faces are ignored.

    Returns:
        Vertices ``(V, 3)`` float64 and triangles ``(F, 3)`` int64.

    Raises:
        DataError: if the file cannot be read, is truncated or contradicts itself, naming it and the number of the line
            among those that are neither empty nor comments.
    """
    lines = _lines(path)
    vertex_count, face_count, start = _header(path, lines)
    promised = start + vertex_count + face_count
    if len(lines) < promised:
        raise DataError(
            f"{path} is truncated: its header has {vertex_count} vertices and {face_count} faces, which need "
            f"{promised} lines, but the file has {len(lines)}"
        )
    vertices = _vertices(path, lines[start : start + vertex_count], start)
    return vertices, _triangles(path, lines[start + vertex_count : promised], start, vertex_count)


def sample_surface(vertices: np.ndarray, triangles: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw ``count`` points, uniform by area: ``(count, 3)`` float64. The same arguments give the same points.

    Raises:
        DataError: for a surface without a finite area above 0.
    """
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    total = areas.sum()
    if not np.isfinite(total) or total <= 0:
        raise DataError(
            f"a surface of {len(triangles)} triangles and area {total:g}, from which no points can be drawn"
        )
    generator = torch.Generator().manual_seed(seed)
    place, along, across = torch.rand(3, count, generator=generator, dtype=torch.float64).numpy()
    filled = areas.cumsum()
    chosen = np.searchsorted(filled, place * filled[-1], side="right")  # never a triangle of area 0
    root = np.sqrt(along)[:, None]
    across = across[:, None]
    return (1 - root) * a[chosen] + root * ((1 - across) * b[chosen] + across * c[chosen])


def sample_off(path: Path, name: str, count: int) -> np.ndarray:
    """Draw ``count`` points from the surface in an ``.off`` file, ``(count, 3)`` float64, with a seed from ``name``.

    Raises:
        DataError: for a damaged file or one without a surface, naming it.
    """
    vertices, triangles = read_off(path)
    try:
        return sample_surface(vertices, triangles, count, mix(zlib.crc32(name.encode())))
    except DataError as error:
        raise DataError(f"{path} has {error}") from error


# ------------------------------------------------------------------------------------------------------------ parsing


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    lines = text.splitlines()
    if "#" in text:
        lines = [line.partition("#")[0] for line in lines]
    return [line for line in lines if line and not line.isspace()]


def _header(path: Path, lines: list[str]) -> tuple[int, int, int]:
    """The numbers of vertices and faces, and the line at which the vertices begin."""
    first = lines[0].strip() if lines else ""
    if not first.startswith("OFF"):
        raise DataError(f"{path} is not an OFF file: it begins with {first[:20]!r} instead of OFF")
    own_line = first == "OFF"
    counts = (lines[1] if len(lines) > 1 else "") if own_line else first.removeprefix("OFF")
    try:
        vertex_count, face_count = (int(word) for word in counts.split()[:2])
    except ValueError:
        raise DataError(f"{path}: {counts.strip()[:40]!r} where the numbers of vertices and faces belong") from None
    if vertex_count < 3 or face_count < 1:
        raise DataError(f"{path} has no surface: {vertex_count} vertices and {face_count} faces")
    return vertex_count, face_count, 2 if own_line else 1


def _vertices(path: Path, lines: list[str], start: int) -> np.ndarray:
    try:
        vertices = np.loadtxt(lines, comments=None, ndmin=2)
    except ValueError:
        vertices = np.empty((0, 0))
    if vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        number = next((number for number, line in enumerate(lines) if not _is_vertex(line)), 0)
        raise DataError(
            f"{path}, line {start + number + 1}: {lines[number][:60]!r} where a vertex of 3 finite coordinates belongs"
        )
    return vertices


def _is_vertex(line: str) -> bool:
    words = line.split()
    try:
        return len(words) == 3 and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def _triangles(path: Path, lines: list[str], start: int, vertex_count: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # with it, some releases of NumPy read 1.5 as 1
            numbers = np.loadtxt(lines, dtype=np.int64, comments=None, ndmin=2)
    except (ValueError, DeprecationWarning):  # polygons of several sizes, colours, or something else
        numbers = np.empty((0, 0), dtype=np.int64)
    if numbers.shape[1] == 4 and (numbers[:, 0] == 3).all():
        triangles, faces = numbers[:, 1:], np.arange(len(lines))
    else:
        triangles, faces = _fans(path, lines, start + vertex_count)
    wrong = ((triangles < 0) | (triangles >= vertex_count)).any(1)
    if wrong.any():
        face = int(faces[wrong.argmax()])
        raise DataError(
            f"{path}, line {start + vertex_count + face + 1}: the face {lines[face][:60]!r} names a vertex outside "
            f"0 to {vertex_count - 1}"
        )
    return triangles


def _fans(path: Path, lines: list[str], start: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of polygons with any number of corners, and the face that each comes from."""
    triangles: list[tuple[int, int, int]] = []
    faces: list[int] = []
    for face, line in enumerate(lines):
        words = line.split()
        try:
            count = int(words[0])
            corners = [int(word) for word in words[1 : 1 + count]]
        except ValueError:
            count, corners = 0, []
        if count < 3 or len(corners) != count:
            raise DataError(
                f"{path}, line {start + face + 1}: {line[:60]!r} where a face belongs, the number of its corners (3 or "
                "more) and their vertices"
            )
        triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, count - 1)]
        faces += [face] * (count - 2)
    return np.array(triangles, dtype=np.int64), np.array(faces)
