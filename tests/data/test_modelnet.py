import builtins
import shutil
import warnings

import numpy as np
import pytest
import torch

from ortho_lightning.data import ModelNetDataModule
from ortho_lightning.data.pointclouds.modelnet import stratified
from ortho_lightning.errors import ConfigurationError, DataError
from tests.data.small_modelnet import NAMES, box, hdf5_clouds, write_hdf5, write_tree

h5py = pytest.importorskip("h5py")


def module(root, tmp_path, **options):
    defaults = {"num_classes": 3, "points": 32, "surface_points": 64, "val_share": 0.25, "batch_size": 4}
    made = ModelNetDataModule(str(root), cache_dir=str(tmp_path / "cache"), **{**defaults, **options})
    made.prepare_data()
    made.setup("fit")
    return made


def write(path, data=None, label=None):
    with h5py.File(path, "w") as stored:
        for name, value in (("data", data), ("label", label)):
            if value is not None:
                stored[name] = value


# ---------------------------------------------------------------------------------------------------------------- HDF5


def test_hdf5_files_are_read_with_z_up_as_listed(tmp_path):
    root = write_hdf5(tmp_path / "set")
    data = module(root, tmp_path, points=64, augment=False)
    assert data.classes == NAMES[:3]
    assert [len(data.splits[split][0]) for split in ("train", "val", "test")] == [9, 3, 6]
    x, y = data.splits["test"]
    assert y.tolist() == [0, 1, 2, 0, 1, 2]
    for row, (number, label) in enumerate([(4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2)]):
        stored = torch.from_numpy(hdf5_clouds(label, number, 64))
        expected = torch.stack([stored[:, 0], -stored[:, 2], stored[:, 1]], 1)
        torch.testing.assert_close(x[row], expected)
        # the taller the class, the larger the spread along z beside that along y
        edges = box(label, number).tolist()
        assert (x[row, :, 2].std() / x[row, :, 1].std()).item() == pytest.approx(edges[2] / edges[1], rel=0.3)
    held, kept = ({cloud.numpy().tobytes() for cloud in data.splits[split][0]} for split in ("val", "train"))
    assert (len(held), len(kept), held & kept) == (3, 9, set())


def test_labels_without_a_second_dimension_are_read_too(tmp_path):
    root = write_hdf5(tmp_path / "set")
    write(root / "ply_data_test0.h5", np.stack([hdf5_clouds(i, 0, 64) for i in range(3)]), np.array([2, 0, 1]))
    assert module(root, tmp_path).splits["test"][1].tolist() == [2, 0, 1]


CLOUDS = np.random.default_rng(0).normal(size=(3, 64, 3)).astype(np.float32)
LABELS = np.array([[0], [1], [2]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        (CLOUDS, None, r"lacks one of the datasets data and label; it has \['data'\]"),
        (CLOUDS[:, :, :2], LABELS, r"data is float32 \(3, 64, 2\); it must be floating point \(N, 64, 3\)"),
        (CLOUDS[:, :60], LABELS, r"data is float32 \(3, 60, 3\)"),
        (CLOUDS[0], LABELS, r"data is float32 \(64, 3\)"),
        (CLOUDS[:0], LABELS[:0], r"data is float32 \(0, 64, 3\)"),
        (CLOUDS.astype(int), LABELS, r"data is int64"),
        (CLOUDS, LABELS[:2], r"label is uint8 \(2, 1\); it must hold integers, \(3, 1\)"),
        (CLOUDS, LABELS.astype(float), r"label is float64"),
        (CLOUDS, LABELS + 1, r"cloud 2 is labelled 3; shape_names.txt names 3 classes, from 0"),
        (CLOUDS, LABELS.astype(int) - 1, r"cloud 0 is labelled -1"),
        (np.where(np.arange(3)[:, None, None] == 1, np.nan, CLOUDS), LABELS, r"cloud 1 holds numbers that are not"),
        (np.where(np.arange(3)[:, None, None] == 2, 0.1, CLOUDS), LABELS, r"cloud 2 holds .* a single point"),
    ],
)
def test_an_hdf5_file_of_another_content_is_named(tmp_path, data, label, message):
    root = write_hdf5(tmp_path / "set")
    write(root / "ply_data_test0.h5", data, label)
    with pytest.raises(DataError, match=r"ply_data_test0\.h5.*" + message):
        module(root, tmp_path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
def test_a_truncated_hdf5_file_is_named(tmp_path, kept):
    path = write_hdf5(tmp_path / "set") / "ply_data_train1.h5"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=r"ply_data_train1\.h5 is damaged or not an HDF5 file"):
        module(tmp_path / "set", tmp_path)


def test_lists_and_files_must_agree(tmp_path):
    root = write_hdf5(tmp_path / "set")
    listing = root / "train_files.txt"
    lines = listing.read_text()
    listing.write_text(lines + "data/ply_data_train2.h5\n")
    with pytest.raises(DataError, match=r"ply_data_train2\.h5 is missing: train_files\.txt lists it"):
        module(root, tmp_path)
    listing.write_text(lines + "ply_data_test0.h5\n")  # the test set among the training files
    with pytest.raises(DataError, match=r"ply_data_test0\.h5 is listed more than once"):
        module(root, tmp_path)
    listing.write_text("")
    with pytest.raises(DataError, match=r"train_files\.txt is empty"):
        module(root, tmp_path)
    listing.unlink()
    with pytest.raises(DataError, match=r"train_files\.txt cannot be read"):
        module(root, tmp_path)
    listing.write_text(lines)
    (root / "shape_names.txt").write_text("bathtub\nbed\nchair\ndesk\n")
    with pytest.raises(DataError, match=r"train_files\.txt is labelled 3 \(desk\)"):
        module(root, tmp_path, num_classes=4)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("h5py"):
            raise ImportError("no h5py")
        return real(name, *args, **kwargs)

    root = write_hdf5(tmp_path / "set")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"needs h5py: pip install 'ortho-lightning\[modelnet\]'"):
        module(root, tmp_path)


# -------------------------------------------------------------------------------------------------------------- meshes


def test_meshes_become_clouds_on_their_surfaces_centred_in_the_unit_ball(tmp_path):
    data = module(write_tree(tmp_path / "ModelNet3"), tmp_path, points=64, augment=False)
    assert data.classes == NAMES[:3]
    assert [len(data.splits[split][0]) for split in ("train", "val", "test")] == [9, 3, 6]
    for x, _ in data.splits.values():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.mean(1), torch.zeros(len(x), 3), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.norm(dim=-1).amax(1), torch.ones(len(x)))
    x, y = data.splits["test"]
    assert y.tolist() == [0, 0, 1, 1, 2, 2]
    for row, (label, number) in enumerate([(0, 4), (0, 5), (1, 4), (1, 5), (2, 4), (2, 5)]):
        edges = torch.from_numpy(box(label, number)).float()
        low, high = x[row].amin(0), x[row].amax(0)
        unit = (x[row] - (low + high) / 2) / (high - low) * 2  # the box as a cube, but for points that miss an edge
        assert (unit.abs().amax(1) > 0.9).all()
        torch.testing.assert_close((high - low) / (high - low)[0], edges / edges[0], rtol=0.15, atol=0)


def test_meshes_are_sampled_once_and_a_changed_file_anew(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "ModelNet3")
    first = module(root, tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(
            "ortho_lightning.data.pointclouds.modelnet_files._sample", lambda *args: pytest.fail("sampled again")
        )
        again = module(root, tmp_path)
        for split in ("train", "val", "test"):
            assert torch.equal(again.splits[split][0], first.splits[split][0])
        with pytest.raises(pytest.fail.Exception, match="sampled again"):
            module(root, tmp_path, surface_points=65)
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(module(root, tmp_path).splits["test"][0], first.splits["test"][0])
    chair, bed = root / "chair" / "test" / "chair_0005.off", root / "bed" / "test" / "bed_0005.off"
    chair.write_bytes(bed.read_bytes())
    assert not torch.equal(module(root, tmp_path).splits["test"][0], first.splits["test"][0])


def test_files_of_a_mac_are_not_meshes(tmp_path):
    root = write_tree(tmp_path / "ModelNet3")
    (root / "chair" / "test" / "._chair_0005.off").write_bytes(b"\0\5\26\7")
    assert len(module(root, tmp_path).splits["test"][0]) == 6


def test_a_mesh_that_is_damaged_or_in_the_wrong_place_is_named_and_leaves_no_cache(tmp_path):
    root = write_tree(tmp_path / "ModelNet3")
    path = root / "chair" / "train" / "chair_0002.off"
    content = path.read_text()
    path.write_text(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"chair_0002\.off is truncated: its header has 8 vertices and 12 faces"):
        module(root, tmp_path)
    path.write_text("OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n")
    with pytest.raises(DataError, match=r"chair_0002\.off has a surface of 1 triangles and area 0"):
        module(root, tmp_path)
    path.write_text(content)
    stray = root / "chair" / "train" / "bed_0002.off"
    stray.write_text(content)
    with pytest.raises(DataError, match=r"bed_0002\.off is a bed by its name.*folder of the class 'chair'"):
        module(root, tmp_path)
    stray.rename(root / "stray.off")
    with pytest.raises(DataError, match=r"stray\.off does not lie in .*<class>/train/ or <class>/test/"):
        module(root, tmp_path)
    (root / "throne" / "test").mkdir(parents=True)
    (root / "stray.off").rename(root / "throne" / "test" / "throne_0001.off")
    with pytest.raises(
        DataError, match=r"throne_0001\.off is of the class 'throne', which has no \.off file in .*train"
    ):
        module(root, tmp_path)
    assert not (tmp_path / "cache").exists()


# --------------------------------------------------------------------------------------------------------- the module


def test_the_folder_may_lie_in_the_root(tmp_path):
    write_hdf5(tmp_path / "data" / "modelnet40_ply_hdf5_2048", classes=4)
    write_tree(tmp_path / "data" / "ModelNet3", classes=3)
    assert module(tmp_path / "data", tmp_path, num_classes=3).classes == NAMES[:3]
    shutil.rmtree(tmp_path / "data" / "ModelNet3")
    assert module(tmp_path / "data", tmp_path, num_classes=4).num_classes == 4
    assert module(tmp_path / "data", tmp_path, num_classes=None).num_classes == 4


def test_missing_data_and_another_number_of_classes_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist.*data\.root=PATH"):
        module(tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match="holds no ModelNet"):
        module(tmp_path, tmp_path)
    root = write_tree(tmp_path / "ModelNet3")
    with pytest.raises(ConfigurationError, match=r"num_classes=40: .*ModelNet3 has 3 classes, from bathtub to chair"):
        module(root, tmp_path, num_classes=40)
    assert not (tmp_path / "cache").exists()  # refused before the meshes are sampled


def test_an_incomplete_modelnet10_is_used_with_a_warning(tmp_path):
    root = write_tree(tmp_path / "ModelNet10", classes=10)
    with pytest.warns(UserWarning, match="has 40 training and 20 test clouds; the whole ModelNet10 has 3991 and 908"):
        module(root, tmp_path, num_classes=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(write_tree(tmp_path / "ModelNet3"), tmp_path)


def test_the_validation_split_takes_the_same_share_of_every_class():
    y = torch.tensor([0] * 40 + [1] * 10 + [2] * 1 + [3] * 25)[torch.randperm(76)]
    train, val = stratified(y, 0.2, seed=0)
    assert torch.bincount(y[val]).tolist() == [8, 2, 0, 5]
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(76))
    assert torch.equal(stratified(y, 0.2, seed=0)[1], val)
    assert not torch.equal(stratified(y, 0.2, seed=1)[1], val)
    assert torch.bincount(y[stratified(y, 0.99, seed=0)[0]]).tolist() == [1, 1, 1, 1]


def test_training_draws_other_points_in_each_epoch_and_evaluation_the_same_ones(tmp_path):
    root = write_hdf5(tmp_path / "set")
    plain = {"turn": False, "scale": (1.0, 1.0), "jitter": 0.0, "dropout": 0.0}
    data = module(root, tmp_path, **plain)
    x, _ = data.splits["train"]
    assert x.shape[1:] == (64, 3)
    index = torch.arange(len(x))
    first, second = data.augmented(x, index, 0), data.augmented(x, index, 1)
    assert first.shape == second.shape == (9, 32, 3)
    for cloud, one, other in zip(x.tolist(), first.tolist(), second.tolist(), strict=True):
        everything, one, other = (set(map(tuple, part)) for part in (cloud, one, other))
        assert len(one) == len(other) == 32
        assert one != other
        assert one | other <= everything
    assert data.splits["val"][0].shape[1] == data.splits["test"][0].shape[1] == 32
    other = module(root, tmp_path, seed=5, **plain)  # the seed of the training does not matter
    assert torch.equal(other.splits["test"][0], data.splits["test"][0])
    assert module(root, tmp_path, augment=False).splits["train"][0].shape[1] == 32
    assert data.prepare(first).shape == (9, 3, 32)


def test_augmentation_depends_on_seed_epoch_and_index_alone(tmp_path):
    root = write_hdf5(tmp_path / "set")
    data = module(root, tmp_path)
    x, index = data.splits["train"][0], torch.arange(9)
    first = data.augmented(x, index, epoch=2)
    torch.testing.assert_close(data.augmented(x[[5, 1]], index[[5, 1]], epoch=2), first[[5, 1]], rtol=0, atol=1e-6)
    assert not torch.allclose(data.augmented(x, index, epoch=3), first)
    assert not torch.allclose(module(root, tmp_path, seed=1).augmented(x, index, epoch=2), first)


def test_each_augmentation_can_be_had_alone(tmp_path):
    root = write_hdf5(tmp_path / "set")
    none = {"turn": False, "scale": (1.0, 1.0), "jitter": 0.0, "dropout": 0.0, "points": 64}

    def change(**options):
        data = module(root, tmp_path, **{**none, **options})
        x = data.splits["train"][0]
        return x, data.augmented(x, torch.arange(len(x)), 0)

    x, same = change()
    assert torch.equal(x, same)
    x, turned = change(turn=True)
    torch.testing.assert_close(turned[..., 2], x[..., 2])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert not torch.allclose(turned, x)
    x, scaled = change(scale=[2.0, 3.0])
    factors = (scaled / x).flatten(1)
    torch.testing.assert_close(factors.amin(1), factors.amax(1))
    assert 2 <= factors.min() < factors.max() < 3
    x, scaled = change(scale=[2.0, 3.0], anisotropic=True)
    assert ((scaled / x).std(2) > 0.01).any()
    x, moved = change(jitter=0.02, jitter_clip=0.03)
    assert (moved - x).abs().max() == pytest.approx(0.03, abs=1e-6)
    x, thin = change(dropout=0.9)
    left = [len(set(map(tuple, cloud))) for cloud in thin.tolist()]
    assert all(64 * 0.1 - 1 <= count <= 64 for count in left)
    assert len(set(left)) > 3


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 1},
        {"points": 1},
        {"surface_points": 16},
        {"val_share": 0.0},
        {"val_share": 0.01},
        {"dropout": 1.1},
        {"scale": (1.2, 0.8)},
        {"scale": (0.8,)},
        {"jitter": -0.1},
        {"jitter_clip": -0.1},
        {"batch_size": 0},
        {"points": 65, "surface_points": 65},
    ],
)
def test_bad_arguments_are_named(tmp_path, options):
    root = write_hdf5(tmp_path / "set")
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
        module(root, tmp_path, **options)
