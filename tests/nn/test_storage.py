"""Storage of whitenings: state dicts, files, copies."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ortho_lightning import Whitening
from ortho_lightning.errors import DataError
from tests.nn.test_whitening import double, vectors

# Written by version 1: Whitening(4, 0.5, 0.25).fit(version_1_vectors()).
VERSION_1 = Path(__file__).with_name("whitening-version-1.safetensors")


def version_1_vectors():
    return (torch.randn(60, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 2).float()


def test_a_file_of_version_1_loads(tmp_path):
    x = version_1_vectors()
    stored = Whitening.load(VERSION_1)
    assert (stored.n_components, stored.beta, stored.gamma, stored.moments.count) == (4, 0.5, 0.25, 60)
    fitted = Whitening(4, 0.5, 0.25).fit(x)
    torch.testing.assert_close(stored(x), fitted(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stored.refit(gamma=1.0)(x), fitted.refit(gamma=1.0)(x), rtol=1e-5, atol=1e-5)


def test_a_file_keeps_the_tensors_of_version_1(tmp_path):
    Whitening.load(VERSION_1).save(tmp_path / "w.safetensors")
    before, after = load_file(VERSION_1), load_file(tmp_path / "w.safetensors")
    assert set(after) - set(before) == {"sums", "cubic"}
    for name, values in before.items():
        assert values.dtype == after[name].dtype
        assert torch.equal(values, after[name][:3] if name == "settings" else after[name]), name


@pytest.mark.parametrize("k", [None, 2])
def test_a_state_dict_goes_into_an_unfitted_module_of_another_width(k):
    x = vectors(dtype=torch.float32)
    fitted = Whitening(k, 0.4, 0.3).fit(x)
    other = Whitening(5, 0.0, 0.0)
    other.load_state_dict(fitted.state_dict())
    assert (other.n_components, other.beta, other.gamma) == (k, 0.4, 0.3)
    assert torch.equal(other(x), fitted(x))
    assert torch.equal(other.refit(gamma=1.0)(x), fitted.refit(gamma=1.0)(x))
    outer = torch.nn.Sequential(torch.nn.Linear(6, 6), Whitening())
    outer.load_state_dict(torch.nn.Sequential(torch.nn.Linear(6, 6), fitted).state_dict())
    assert torch.equal(outer[1](x), fitted(x))


def test_an_unfitted_state_and_one_row_load_too():
    Whitening().load_state_dict(Whitening().state_dict())
    started = Whitening().partial_fit(vectors(1))
    other = Whitening()
    other.load_state_dict(started.state_dict())
    x = vectors(20, seed=1)
    assert torch.equal(other.partial_fit(x)(x), started.partial_fit(x)(x))


def test_a_state_taken_after_partial_fit_holds_the_transform():
    x = vectors()
    state = double().partial_fit(x).state_dict()
    assert state["projection"].shape == (6, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_files_round_trip(tmp_path, dtype):
    x = vectors(dtype=dtype)
    whitening = Whitening(4, 0.5, 0.25).to(dtype).fit(x)
    whitening.save(tmp_path / "w.safetensors")
    again = Whitening.load(tmp_path / "w.safetensors")
    assert torch.equal(again(x), whitening(x))
    assert repr(again) == repr(whitening)
    assert "60 vectors of 6 numbers" in repr(again)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_truncated_missing_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    double().fit(vectors()).save(path)
    content = path.read_bytes()
    for length in (len(content) - 8, len(content) // 2, 4, 0):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"w\.safetensors cannot be read"):
            Whitening.load(path)
    with pytest.raises(DataError, match="nothing"):
        Whitening.load(tmp_path / "nothing")
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(DataError, match=r"\['weight'\], not the tensors of a whitening"):
        Whitening.load(path)


def test_copies_and_pickles():
    x = vectors()
    whitening = double(3).fit(x)
    for again in (copy.deepcopy(whitening), pickle.loads(pickle.dumps(whitening))):
        assert torch.equal(again(x), whitening(x))
