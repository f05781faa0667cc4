import numpy as np
import pytest
import torch

pytest.importorskip("faiss")
import faiss

from ortho_lightning import Whitening
from ortho_lightning.errors import NotFittedError
from ortho_lightning.integrations.faiss import to_faiss


def vectors(n=300, d=8):
    random = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=random) @ torch.randn(d, d, generator=random) + 5


@pytest.mark.parametrize(("k", "beta", "gamma"), [(None, 1.0, 1.0), (3, 0.0, 0.0), (5, 0.5, 0.3)])
def test_the_transform_is_the_module(k, beta, gamma):
    x = vectors()
    whitening = Whitening(k, beta, gamma).fit(x)
    np.testing.assert_allclose(to_faiss(whitening).apply(x.numpy()), whitening(x).numpy(), rtol=1e-3, atol=1e-4)


def test_in_front_of_an_index_it_finds_what_whitened_vectors_find(tmp_path):
    x = vectors()
    whitening = Whitening(4).fit(x)
    index = faiss.IndexPreTransform(to_faiss(whitening), faiss.IndexFlatL2(4))
    index.add(x.numpy())
    faiss.write_index(index, str(tmp_path / "index"))
    found = faiss.read_index(str(tmp_path / "index")).search(x[:20].numpy(), 3)[1]
    nearest = torch.cdist(whitening(x[:20]), whitening(x)).topk(3, largest=False).indices
    assert np.array_equal(found, nearest.numpy())


def test_an_unfitted_whitening_is_refused():
    with pytest.raises(NotFittedError):
        to_faiss(Whitening())
