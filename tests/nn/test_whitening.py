import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import Whitening
from ortho_lightning.errors import ConfigurationError, NotFittedError


def vectors(n=60, d=6, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=random, dtype=torch.float64)
    return (x @ torch.randn(d, d, generator=random, dtype=torch.float64) + 2).to(dtype)


def double(k=None, beta=1.0, gamma=1.0):
    return Whitening(k, beta, gamma).double()


SETTINGS = [(1, 1, 12), (1, 1, 5), (0, 0, 12), (0, 0, 5), (1, 0, 5), (0.5, 0.25, 7)]


@pytest.mark.parametrize(("beta", "gamma", "k"), SETTINGS)
def test_golden(golden, beta, gamma, k):
    values = golden("whitening.npz")
    y = double(k, float(beta), float(gamma)).fit(values["fit"])(values["query"])
    expected = values[f"gram_beta{beta}_gamma{gamma}_k{k}"]
    torch.testing.assert_close(y @ y.T, expected, rtol=1e-10, atol=1e-10 * expected.abs().max())


@given(st.integers(8, 40), st.integers(1, 7), st.integers(0, 2**20))
def test_fully_whitened_vectors_are_white(n, d, seed):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3
    y = double().fit(x)(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(d, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(y.T @ y / n, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-8)


def test_beta_and_gamma_zero_rotate_only():
    x = vectors()
    y = double(None, 0.0, 0.0).fit(x)(x)
    torch.testing.assert_close(y @ y.T, x @ x.T)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**20))
def test_the_inverse_is_exact_at_full_rank(beta, gamma, seed):
    x = vectors(30, 5, seed)
    whitening = double(None, beta, gamma).fit(x)
    torch.testing.assert_close(whitening.inverse(whitening(x)), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.3)])
def test_the_inverse_of_fewer_components_has_the_smallest_norm(beta, gamma):
    x = vectors()
    whitening = double(3, beta, gamma).fit(x)
    y = whitening(x)
    back = whitening.inverse(y)
    torch.testing.assert_close(whitening(back), y)  # a solution
    pseudo = y @ torch.linalg.pinv(whitening.projection) + beta * x.mean(0)
    torch.testing.assert_close(back, pseudo)


def test_explained_variance_sums_to_one_at_full_rank():
    x = vectors()
    ratio = double().fit(x).explained_variance_ratio
    assert ratio.sum().item() == pytest.approx(1)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.numpy(), rowvar=False, bias=True))[::-1]
    np.testing.assert_allclose(ratio.numpy(), eigenvalues / eigenvalues.sum(), rtol=1e-9)
    torch.testing.assert_close(double(2).fit(x).explained_variance_ratio, ratio[:2])
    assert 1 <= double().fit(x).effective_rank <= 6


# ------------------------------------------------------------------------------------------------------------ fitting


@pytest.mark.parametrize("changes", [{"beta": 0.2}, {"gamma": 0.0}, {"n_components": 2}, {"n_components": None}])
def test_refit_is_fit_with_other_hyperparameters(changes):
    x = vectors()
    refitted = double(4, 0.9, 0.8).fit(x).refit(**changes)
    options = {"n_components": 4, "beta": 0.9, "gamma": 0.8, **changes}
    fitted = double(options["n_components"], options["beta"], options["gamma"]).fit(x)
    for name, value in fitted.state_dict().items():
        assert torch.equal(refitted.state_dict()[name], value), name


def test_partial_fits_in_any_order_are_one_fit():
    x = vectors(100)
    whole = double(4).fit(x)
    batches = [x[:1], x[1:40], x[40:90], x[90:]]
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        parts = double(4)
        for at in order:
            parts.partial_fit(batches[at])
        assert parts.moments.count == 100
        torch.testing.assert_close(parts(x), whole(x), rtol=1e-8, atol=1e-8)


def test_partial_fit_goes_on_from_a_fit_and_fit_forgets():
    x = vectors(100)
    torch.testing.assert_close(double().fit(x[:50]).partial_fit(x[50:])(x), double().fit(x)(x), rtol=1e-8, atol=1e-8)
    assert torch.equal(double().fit(x[:50]).fit(x[50:])(x), double().fit(x[50:])(x))


@pytest.mark.parametrize("kind", ["array", "memmap", "list", "generator", "loader", "fortran", "big endian", "strided"])
def test_every_source_gives_the_same(tmp_path, kind):
    x = vectors(50, 4, dtype=torch.float32)
    array = x.numpy()
    np.save(tmp_path / "x.npy", array)
    source = {
        "array": lambda: array,
        "memmap": lambda: np.load(tmp_path / "x.npy", mmap_mode="r"),
        "list": lambda: [x[:20], array[20:21], x[21:]],
        "generator": lambda: (x[i : i + 7] for i in range(0, 50, 7)),
        "loader": lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8),
        "fortran": lambda: np.asfortranarray(array),
        "big endian": lambda: array.astype(">f4"),
        "strided": lambda: np.repeat(array, 2, axis=0)[::2],
    }[kind]()
    torch.testing.assert_close(Whitening().fit(source)(x), Whitening().fit(x)(x), rtol=1e-5, atol=1e-5)


def test_the_progress_bar_counts_rows(capsys):
    Whitening().fit(vectors(50, 2), progress=True)
    assert "50/50" in capsys.readouterr().err


def test_arrays_can_be_whitened_too():
    x = vectors(dtype=torch.float32)
    whitening = Whitening(3).fit(x)
    assert torch.equal(whitening(x.numpy()), whitening(x))
    assert torch.equal(whitening.inverse(whitening(x).numpy()), whitening.inverse(whitening(x)))


def test_leading_dimensions_are_kept():
    x = vectors(24)
    whitening = double(2).fit(x)
    torch.testing.assert_close(whitening(x.view(2, 3, 4, 6)), whitening(x).view(2, 3, 4, 2))
    assert whitening(x[0]).shape == (2,)


# ------------------------------------------------------------------------------------------------------ difficult data


def test_components_without_variance_are_zero_and_counted():
    x = torch.cat([vectors(), torch.full((60, 2), 7.0, dtype=torch.float64)], 1)
    with pytest.warns(UserWarning, match="span 6 of 8 dimensions, so 2 of 8 components are 0; n_components=6"):
        whitening = double().fit(x)
    y = whitening(x)
    assert (whitening.rank, y.shape[1]) == (6, 8)
    assert torch.equal(y[:, 6:], torch.zeros(60, 2, dtype=torch.float64))
    torch.testing.assert_close(whitening.inverse(y), x)
    assert double(6).fit(x)(x).isfinite().all()


@pytest.mark.filterwarnings("ignore:the vectors span")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_rows_than_dimensions(dtype):
    x = vectors(5, 40).to(dtype)
    whitening = Whitening().to(dtype).fit(x)
    assert whitening.rank == 4
    y = whitening(x)
    torch.testing.assert_close(y[:, :4].T @ y[:, :4] / 5, torch.eye(4, dtype=dtype), rtol=0, atol=1e-4)
    assert torch.equal(y[:, 4:], torch.zeros(5, 36, dtype=dtype))


@pytest.mark.filterwarnings("ignore:the vectors span")
def test_constant_data():
    x = torch.full((9, 3), 0.1)
    for gamma in (0.0, 1.0):
        whitening = Whitening(gamma=gamma).fit(x)
        assert whitening.rank == 0
        torch.testing.assert_close(whitening(x), torch.zeros(9, 3))
        assert whitening.explained_variance_ratio.tolist() == [0, 0, 0]
        assert whitening.effective_rank == 0
        torch.testing.assert_close(whitening.inverse(whitening(x)), x)
    assert Whitening(beta=0.0).fit(x).rank == 1


def test_a_large_mean_does_not_spoil_float32():
    x = (vectors(2000, 4, dtype=torch.float64) + 1e4).float()
    y = Whitening().fit(x)(x).double()
    torch.testing.assert_close(y.T @ y / 2000, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-3)


def test_refused_data_change_nothing():
    x = vectors()
    whitening = double(4).fit(x)
    before = copy.deepcopy(whitening.state_dict())
    broken = x.clone()
    broken[33, 2] = torch.nan
    for data, message in (
        (broken, r"row\(s\): 33"),
        ([x[:30], broken[30:]], r"row\(s\): 33"),
        (x[:1], r"1 vector\(s\)"),
        (x[:, :3], "n_components=4: the vectors have 3 numbers"),
        (x[0], r"got shape \(6,\)"),
        ([], "gave no batch"),
        ([x, x[0]], "batch 1: .*shape"),
        ([x, x[:, :5]], "6 and with 5 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            whitening.fit(data)
    for data, message in (
        (x.long(), "int64"),
        (x.numpy().astype(int), "an array of int64"),
        (3, "got int"),
        (["x"], "batch 0: .*str"),
    ):
        with pytest.raises(TypeError, match=message):
            whitening.fit(data)
    with pytest.raises(ValueError, match=r"row\(s\): 93"):  # of all rows
        whitening.partial_fit(broken)
    with pytest.raises(ConfigurationError, match="n_components=7"):
        whitening.refit(n_components=7)
    with pytest.raises(ConfigurationError, match="beta='1'"):
        whitening.refit(beta="1")
    after = whitening.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components=0"),
        ({"n_components": 2.0}, "n_components=2.0"),
        ({"n_components": True}, "n_components=True"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"gamma": -0.5}, "gamma=-0.5"),
        ({"gamma": float("inf")}, "gamma=inf"),
    ],
)
def test_arguments_outside_their_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Whitening(**options)


def test_an_unfitted_whitening_says_so():
    for use in (lambda w: w(torch.ones(2, 3)), lambda w: w.inverse(torch.ones(2, 3)), lambda w: w.refit(beta=0.0),
                lambda w: w.spectrum, lambda w: w.save("nowhere.safetensors")):  # fmt: skip
        with pytest.raises(NotFittedError, match="not fitted"):
            use(Whitening())
    with pytest.raises(ValueError, match=r"1 vector\(s\)"):
        Whitening().partial_fit(torch.ones(1, 2))(torch.ones(1, 2))


def test_vectors_of_another_size_are_refused():
    whitening = double(2).fit(vectors())
    with pytest.raises(ValueError, match="vectors of 5 numbers: fitted on vectors of 6"):
        whitening(torch.ones(3, 5))
    with pytest.raises(ValueError, match="the whitening gives 2"):
        whitening.inverse(torch.ones(3, 5))


# -------------------------------------------------------------------------------------------------- dtypes and devices


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_out_in_float32(dtype):
    x = vectors().to(dtype)
    whitening = Whitening(3).fit(x)
    assert whitening(x).dtype == torch.float32
    torch.testing.assert_close(whitening(x), double(3).fit(x.double())(x.double()).float(), rtol=1e-4, atol=1e-4)


def test_under_autocast_too():
    x = vectors(dtype=torch.float32)
    whitening = Whitening(3).fit(x)
    expected, back = whitening(x), whitening.inverse(whitening(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whitening(x), expected)
        assert torch.equal(whitening.inverse(expected), back)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_casting_leaves_the_moments_alone(cast):
    x = vectors()
    whitening = double(3).fit(x)
    expected = whitening(x)
    getattr(whitening, cast)()
    wanted = torch.float64 if cast == "double" else torch.float32
    assert whitening.projection.dtype == wanted
    assert whitening.mean.dtype == whitening.scatter.dtype == whitening.eigenvalues.dtype == torch.float64
    torch.testing.assert_close(whitening(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whitening.double().refit()(x), expected, rtol=1e-12, atol=1e-12)


def test_moving_moves_everything():
    whitening = Whitening(3).fit(vectors()).to("meta")
    assert {buffer.device.type for buffer in whitening.buffers()} == {"meta"}


def test_gradients_reach_the_input():
    x = vectors(8).requires_grad_()
    whitening = double(3).fit(x)
    assert torch.autograd.gradcheck(whitening, x)
    assert not any(buffer.requires_grad for buffer in whitening.buffers())


def test_the_same_data_give_the_same_bits():
    x = vectors()
    first, second = (double(3).fit(x).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], value) for name, value in second.items())


# -------------------------------------------------------------------------------------------------------------- export


def test_torch_export_with_any_number_of_rows():
    x = vectors(dtype=torch.float32)
    whitening = Whitening(3).fit(x)
    exported = torch.export.export(whitening, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.testing.assert_close(exported.module()(x[:7]), whitening(x[:7]))


def test_torch_compile_without_a_graph_break():
    x = vectors(dtype=torch.float32)
    whitening = Whitening(3).fit(x)
    torch.testing.assert_close(torch.compile(whitening, fullgraph=True, backend="eager")(x), whitening(x))


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    x = vectors(dtype=torch.float32)
    whitening = Whitening(3).fit(x).eval()
    rows = torch.export.Dim("rows")
    torch.onnx.export(whitening, (x,), tmp_path / "w.onnx", dynamo=True, dynamic_shapes=({0: rows},), verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x[:7].numpy()})
    np.testing.assert_allclose(found, whitening(x[:7]).numpy(), rtol=1e-4, atol=1e-5)


def test_a_transform_that_overflows_is_refused_and_nothing_changes():
    x = 1e-3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    whitening = Whitening().fit(x)
    before = whitening(x)
    with pytest.raises(ConfigurationError, match=r"gamma=20\.0: the transform of these vectors overflows"):
        whitening.refit(gamma=20.0)
    assert torch.equal(whitening(x), before)
    assert whitening.gamma == 1.0


def test_a_refit_that_fails_leaves_the_hyper_parameters():
    whitening = Whitening(beta=0.5).partial_fit(torch.ones(1, 4))
    with pytest.raises(ValueError, match="two or more"):
        whitening.refit(beta=0.0)
    assert whitening.beta == 0.5


def test_vectors_too_large_to_square_are_refused():
    with pytest.raises(ValueError, match="too large"):
        Whitening().double().fit(1e200 * torch.randn(20, 3, dtype=torch.float64))


def test_numpy_integers_are_integers():
    assert Whitening(np.int64(2)).n_components == 2
