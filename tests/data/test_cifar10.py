import io
import pickle
import tarfile
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ortho_lightning.data.cifar10 import CLASSES, CIFAR10DataModule, crop_and_flip, load_cifar10
from ortho_lightning.errors import ConfigurationError, DataError


@pytest.fixture(autouse=True)
def _small_sets_are_expected():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the whole CIFAR-10 has.*")
        yield


def pixels(split, label, number):
    generator = torch.Generator().manual_seed(1000 * (split == "test") + 10 * label + number)
    return torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


def write_tree(root, per_class=3):
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                content = png(pixels(split, label, number))
                (folder / f"{number:04d}.png").write_bytes(content)
    return root


def write_archive(path, tree):
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tree, arcname="images")
    return path


def load(root, tmp_path):
    return load_cifar10(root, tmp_path / "cache", download=False)


def assert_complete(data):
    for split in ("train", "test"):
        x, y = data[split]
        assert x.dtype == torch.uint8
        assert y.tolist() == [label for label in range(10) for _ in range(3)]
        for position in range(30):
            assert torch.equal(x[position], pixels(split, position // 3, position % 3))


def test_tree_archive_and_folder_with_an_archive(tmp_path):
    tree = write_tree(tmp_path / "tree")
    assert_complete(load(tree, tmp_path))
    (tmp_path / "packed").mkdir()
    archive = write_archive(tmp_path / "packed" / "images.tar.xz", tree)
    assert_complete(load(archive, tmp_path))
    assert_complete(load(tmp_path / "packed", tmp_path))


def test_decoded_once_and_cached_and_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "tree")
    load(tree, tmp_path)
    (cache,) = (tmp_path / "cache").iterdir()
    decode = pytest.MonkeyPatch()
    decode.setattr("ortho_lightning.data.cifar10._decode", lambda source: pytest.fail("decoded again"))
    assert_complete(load(tree, tmp_path))
    decode.undo()
    cache.write_bytes(cache.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="damaged"):
        assert_complete(load(tree, tmp_path))
    assert_complete(load(tree, tmp_path))


def test_a_changed_tree_is_decoded_anew(tmp_path):
    tree = write_tree(tmp_path / "tree")
    load(tree, tmp_path)
    image = tree / "train" / "cat" / "0001.png"
    image.write_bytes(png(torch.zeros(3, 32, 32, dtype=torch.uint8)))
    x, y = load(tree, tmp_path)["train"]
    assert x[y == CLASSES.index("cat")][1].sum() == 0


def test_torchvision_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images[name] = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images[name], "labels": [0, 3, 9, 5]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = load(tmp_path, tmp_path)
    expected = np.concatenate([images[f"data_batch_{i}"] for i in range(1, 6)]).reshape(20, 3, 32, 32)
    assert torch.equal(data["train"][0], torch.from_numpy(expected))
    assert data["test"][1].tolist() == [0, 3, 9, 5]


def test_a_damaged_torchvision_folder_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="cifar-10-batches-py is damaged"):
        load(tmp_path, tmp_path)


def test_no_data_is_one_error_that_says_how_to_provide_it(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist.*data\.root=PATH.*data\.download=true"):
        load(tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match="holds no CIFAR-10"):
        load(tmp_path, tmp_path)


def test_a_failed_download_says_how_to_provide_the_data(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", unreachable)
    with pytest.raises(DataError, match=r"could not be downloaded.*no network.*data\.root=PATH"):
        load_cifar10(tmp_path, tmp_path / "cache", download=True)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_archive_is_named(tmp_path, kept):
    archive = write_archive(tmp_path / "images.tar.xz", write_tree(tmp_path / "tree"))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"images\.tar\.xz is damaged"):
        load(archive, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_something_else_is_not_an_archive(tmp_path):
    (tmp_path / "set.tar").write_text("hello")
    with pytest.raises(DataError, match="not a tar archive"):
        load(tmp_path / "set.tar", tmp_path)


def test_missing_class_wrong_size_and_broken_image_are_named(tmp_path):
    tree = write_tree(tmp_path / "tree")
    frog = tree / "test" / "frog"
    frog.rename(tree / "test" / "toad")
    with pytest.raises(DataError, match=r"test/ lacks the classes \['frog'\].*unknown classes \['toad'\]"):
        load(tree, tmp_path)
    (tree / "test" / "toad").rename(frog)
    small = png(torch.zeros(3, 32, 31, dtype=torch.uint8))
    (frog / "0009.png").write_bytes(small)
    with pytest.raises(DataError, match=r"0009\.png is 32 x 31 pixels"):
        load(tree, tmp_path)
    (frog / "0009.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"0009\.png is not a readable image"):
        load(tree, tmp_path)
    (frog / "0009.png").unlink()
    stray = io.BytesIO(png(pixels("train", 0, 0)))
    (tree / "stray.png").write_bytes(stray.read())
    with pytest.raises(DataError, match=r"stray\.png does not lie in"):
        load(tree, tmp_path)


def make_module(tmp_path, **options):
    tree = tmp_path / "tree"
    if not tree.exists():
        write_tree(tree)
    module = CIFAR10DataModule(
        str(tree), cache_dir=str(tmp_path / "cache"), **{"val_images": 6, "batch_size": 4, **options}
    )
    module.setup("fit")
    return module


def test_validation_split_is_seeded_and_disjoint(tmp_path):
    first, again, other = (make_module(tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert [len(first.splits[s][0]) for s in ("train", "val", "test")] == [24, 6, 30]
    assert torch.equal(first.splits["val"][0], again.splits["val"][0])
    assert not torch.equal(first.splits["val"][0], other.splits["val"][0])
    train = {x.numpy().tobytes() for x in first.splits["train"][0]}
    assert not any(x.numpy().tobytes() in train for x in first.splits["val"][0])
    assert len(make_module(tmp_path, train_images=8).splits["train"][0]) == 8
    with pytest.raises(ConfigurationError, match="val_images=30"):
        make_module(tmp_path, val_images=30)


def test_of_some_classes_the_images_are_those_of_the_whole_split_numbered_anew(tmp_path):
    whole, half = make_module(tmp_path), make_module(tmp_path, classes=["truck", "cat"])
    assert (whole.num_classes, half.num_classes) == (10, 2)
    for split in ("train", "val", "test"):
        x, y = whole.splits[split]
        expected = {
            image.numpy().tobytes(): {9: 0, 3: 1}[int(label)]
            for image, label in zip(x, y, strict=True)
            if label in (3, 9)
        }
        found = {image.numpy().tobytes(): int(label) for image, label in zip(*half.splits[split], strict=True)}
        assert found == expected


@pytest.mark.parametrize("classes", [["cat"], ["cat", "cat"], ["cat", "lion"], []])
def test_unusable_classes_are_named(tmp_path, classes):
    with pytest.raises(ConfigurationError, match=r"classes=\["):
        CIFAR10DataModule(str(tmp_path), classes=classes)


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_crop_and_flip_equal_padding_and_slicing_each_image(pad):
    x = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    offsets = torch.randint(0, 2 * pad + 1, (10, 2))
    mirrored = torch.rand(10) < 0.5
    found = crop_and_flip(x, pad, offsets, mirrored)
    for image, (row, column), flip, result in zip(x, offsets.tolist(), mirrored, found, strict=True):
        expected = F.pad(image, (pad,) * 4)[:, row : row + 32, column : column + 32]
        assert torch.equal(result, expected.flip(-1) if flip else expected)


def test_augmentation_depends_on_seed_epoch_and_index_alone(tmp_path):
    module = make_module(tmp_path)
    x, index = module.splits["train"][0][:8], torch.arange(8)
    first = module.augmented(x, index, epoch=2)
    assert torch.equal(module.augmented(x[[5, 1]], index[[5, 1]], epoch=2), first[[5, 1]])
    assert not torch.equal(module.augmented(x, index, epoch=3), first)
    assert not torch.equal(make_module(tmp_path, seed=1).augmented(x, index, epoch=2), first)


def test_prepared_images_are_normalized(tmp_path):
    module = make_module(tmp_path)
    gray = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor([0.4914, 0.4822, 0.4465])) / torch.tensor([0.2470, 0.2435, 0.2616])
    torch.testing.assert_close(module.prepare(gray)[0, :, 0, 0], expected)


@pytest.mark.slow
def test_all_real_images(shared, tmp_path):
    data = load(shared("data/cifar10"), tmp_path)
    assert data["train"][0].shape == (50_000, 3, 32, 32)
    assert torch.bincount(data["test"][1]).tolist() == [1000] * 10
