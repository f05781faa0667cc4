import numpy as np
import pytest
import scipy.stats

from ortho_lightning.data.pointclouds.meshes import read_off, sample_off, sample_surface
from ortho_lightning.errors import DataError

SQUARE = "0 0 0\n2 0 0\n2 2 0\n0 2 0\n"


def write(tmp_path, text, name="mesh.off"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", ["OFF\n4 2 0\n", "OFF4 2 0\n", "OFF 4 2 0\n", "# a square\nOFF\n\n4 2 0 # counts\n"])
def test_the_counts_may_stand_on_either_line(tmp_path, header):
    vertices, triangles = read_off(write(tmp_path, header + SQUARE + "3 0 1 2\n3 0 2 3\n"))
    assert vertices.tolist() == [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_polygons_become_fans_and_colours_are_ignored(tmp_path):
    text = "OFF\n5 2 0\n" + SQUARE + "1 3 0\n5 0 1 2 4 3\n3 0 1 2 255 0 0\n"
    _, triangles = read_off(write(tmp_path, text))
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 4], [0, 4, 3], [0, 1, 2]]


def test_points_are_spread_by_area():
    generator = np.random.default_rng(0)
    vertices = generator.normal(size=(12, 3))
    # each triangle in a plane of its own, so that a point tells where it comes from
    triangles = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [0, 0, 1]])  # the last one has no area
    found = sample_surface(vertices, triangles, 20_000, seed=1)
    counts, areas = [], []
    for a, b, c in vertices[triangles[:4]]:
        u, v = b - a, c - a
        normal = np.cross(u, v)
        flat = np.abs((found - a) @ normal) / np.linalg.norm(normal) < 1e-9
        weights = np.linalg.lstsq(np.stack([u, v], 1), (found[flat] - a).T, rcond=None)[0]
        assert (weights > -1e-9).all()
        assert (weights.sum(0) < 1 + 1e-9).all()
        # uniform in the triangle: the marginal of each barycentric coordinate has the distribution 1 - (1 - t)^2
        for weight in (*weights, 1 - weights.sum(0)):
            assert scipy.stats.kstest(weight, lambda t: 1 - (1 - t) ** 2).pvalue > 0.001
        counts.append(flat.sum())
        areas.append(np.linalg.norm(normal) / 2)
    assert sum(counts) == 20_000
    expected = 20_000 * np.array(areas) / np.sum(areas)
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.01


def test_the_same_name_gives_the_same_points(tmp_path):
    path = write(tmp_path, "OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n3 0 2 3\n")
    first = sample_off(path, "chair/train/chair_0001.off", 50)
    assert np.array_equal(sample_off(path, "chair/train/chair_0001.off", 50), first)
    assert not np.array_equal(sample_off(path, "chair/train/chair_0002.off", 50), first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an OFF file: it begins with ''"),
        ("ply\nformat ascii\n", "begins with 'ply' instead of OFF"),
        ("OFF\n", "'' where the numbers"),
        ("OFF\nfour 2 0\n" + SQUARE, "'four 2 0' where the numbers"),
        ("OFF\n4 0 0\n" + SQUARE, "has no surface: 4 vertices and 0 faces"),
        ("OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n", "has 4 vertices and 2 faces, which need 8 lines, but the file has 7"),
        ("OFF4 2 0\n0 0 0\n", "has 4 vertices and 2 faces, which need 7 lines, but the file has 2"),
        ("OFF\n5 1 0\n" + SQUARE + "3 0 1 2\n3 0 1 2\n", "line 7: '3 0 1 2' where a vertex of 3"),
        ("OFF\n3 1 0\n0 0 0\n1 x 0\n0 1 0\n3 0 1 2\n", "line 4: '1 x 0' where a vertex"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 nan 0\n3 0 1 2\n", "line 5: '0 nan 0' where a vertex of 3 finite"),
        ("OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n3 0 2 4\n", "line 8: the face '3 0 2 4' names a vertex outside 0 to 3"),
        ("OFF\n4 2 0\n" + SQUARE + "4 0 1 2 3\n3 0 2 -1\n", "line 8: the face '3 0 2 -1' names a vertex outside"),
        ("OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n3 0 2\n", "line 8: '3 0 2' where a face belongs"),
        ("OFF\n4 1 0\n" + SQUARE + "2 0 1\n", "line 7: '2 0 1' where a face belongs"),
        ("OFF\n4 1 0\n" + SQUARE + "3 0 1 1.5\n", "where a face belongs"),
        ("OFF\n4 1 0\n" + SQUARE + "3 0 1 1\n", "a surface of 1 triangles and area 0"),
    ],
)
def test_a_damaged_mesh_is_named_with_what_is_wrong(tmp_path, text, message):
    with pytest.raises(DataError) as caught:
        sample_off(write(tmp_path, text), "name", 10)
    assert str(tmp_path / "mesh.off") in str(caught.value)
    assert message in str(caught.value)


def test_a_mesh_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.off cannot be read"):
        read_off(tmp_path / "none.off")
