"""The width chosen without labels for a large set with a power-law spectrum, in a folder of files."""

import shutil

import numpy as np
import pytest
import torch

from ortho_lightning import Whitening


def power_law(folder, count, d, shards=4):
    """Write normal vectors whose standard deviations fall as 1 / i, in a random basis."""
    folder.mkdir()
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((d, d)))[0] / np.arange(1, d + 1)[:, None]
    for number in range(shards):
        rows = count // shards
        file = np.lib.format.open_memmap(folder / f"{number}.npy", "w+", np.float32, (rows, d))
        for start in range(0, rows, 25_000):
            block = random.standard_normal((min(25_000, rows - start), d), dtype=np.float32)
            file[start : start + len(block)] = block @ axes.astype(np.float32)
        file.flush()


def recall_among_all(folder, whitening, queries):
    """Recall@10 among all vectors, and not a sample; queries are new vectors."""
    raw, small = [], []
    for path in sorted(folder.glob("*.npy")):
        vectors = np.load(path, mmap_mode="r")
        for start in range(0, len(vectors), 25_000):
            block = torch.from_numpy(np.array(vectors[start : start + 25_000]))
            raw.append(cosines(queries, block))
            small.append(cosines(whitening(queries), whitening(block)))
    true, found = (torch.cat(parts, 1) for parts in (raw, small))
    threshold = true.topk(10).values[:, -1:]
    return float((true.gather(1, found.topk(10).indices) >= threshold - 1e-6).double().mean())


def cosines(a, b):
    return torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T


@pytest.mark.parametrize(
    ("count", "d"),
    [pytest.param(100_000, 64, id="100,000 x 64"), pytest.param(1_000_000, 768, id="full", marks=pytest.mark.slow)],
)
def test_the_width_for_a_power_law(command, count, d):
    power_law(command.folder / "vectors", count, d)
    said = command("fit=vectors", "keep=0.95", "out=w.safetensors", "queries=200", "sample=20000", "progress=false")
    print(said)
    whitening = Whitening.load("w.safetensors")
    k = whitening.n_components
    assert k < d
    assert whitening.moments.count == count - 200
    # eigenvalues fall as 1 / i^2, up to the noise of the sample
    expected = 1 / torch.arange(1, d + 1).double().square()
    torch.testing.assert_close(whitening.spectrum, expected, rtol=0.1, atol=0)
    random = np.random.default_rng(1)
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0] / np.arange(1, d + 1)[:, None]
    queries = torch.from_numpy((random.standard_normal((100, d)) @ axes).astype(np.float32))
    among_all = recall_among_all(command.folder / "vectors", whitening, queries)
    print(f"k = {k}; recall among all {count} vectors: {among_all:.4f}")
    assert 0.85 < among_all < 0.99
    shutil.rmtree(command.folder / "vectors")  # 3 GB
