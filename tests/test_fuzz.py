"""Any shape, layout and dtype: a sound penalty and gradient, or a message; never NaN from finite numbers."""

import math
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram, LayerView
from tests.callbacks.helpers import boring, make_trainer

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

REGULARIZERS = st.sampled_from(
    [
        LSH(),
        LSH(max_samples=7),
        LSH(normalize="rms"),
        LSH(detach_inputs=True),
        LSH(probe="gaussian", max_samples=9),
        LSH(probe="exact"),
        LSH(reduction="sum", lambda2=0.0),
        Gram(),
        Gram(off_diagonal=True),
        Gram(norm="spectral"),
    ]
)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
SCALES = st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4])


def laid_out(x, layout):
    if layout == "channels_last" and x.dim() in (4, 5):
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "strided":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x


@st.composite
def layers_and_inputs(draw):
    """A layer with perhaps one filter a group, and a batch of perhaps no or one sample for it."""
    dtype, scale = draw(DTYPES), draw(SCALES)
    layout = draw(st.sampled_from(["contiguous", "channels_last", "strided", "transposed"]))
    batch, bias = draw(st.integers(0, 3)), draw(st.booleans())
    dimensions = draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if dimensions == 0:
        layer = nn.Linear(draw(st.integers(1, 6)), draw(st.integers(1, 9)), bias=bias)
        shape = (batch, *draw(st.lists(st.integers(1, 3), max_size=2)), layer.in_features)
    else:
        groups, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        layer = kind(
            groups * draw(st.integers(1, 2)),
            groups * draw(st.integers(1, 4)),
            kernel,
            stride=draw(st.integers(1, 3)),
            dilation=draw(st.integers(1, 2)),
            padding=draw(st.integers(0, 2)),
            groups=groups,
            bias=bias,
        )
        size = draw(st.integers(5, 7))
        shape = (batch, layer.in_channels, *[size] * dimensions)
    layer = layer.to(dtype)
    with torch.no_grad():
        if draw(st.booleans()):
            layer.weight[:1] = 0  # a filter without direction
        if draw(st.booleans()):
            layer.weight[-1:] = layer.weight[:1]  # identical filters
    x = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    return layer, laid_out(x, layout)


class Fuzzed(boring().BoringModel):
    def __init__(self, layer, x):
        super().__init__()
        self.layer, self.x = layer, x
        self.gradients = None

    def training_step(self, batch, batch_idx):
        return 0.0 * self.layer(self.x).double().sum()

    def on_after_backward(self):
        self.gradients = [p.grad for p in self.parameters() if p.grad is not None]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@QUICK
@given(layers_and_inputs(), REGULARIZERS, st.booleans())
def test_any_layer_and_batch_trains_or_is_refused_with_a_message(case, regularizer, by_name):
    layer, x = case
    model = Fuzzed(layer, x)
    callback = OrthogonalityCallback(
        regularizer, layers="layer" if by_name else None, weight=0.5, log_every_n_steps=1, name="fuzz"
    )
    trainer = make_trainer(callback, limit_train_batches=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit(model)
        except ConfigurationError as error:
            refusal = str(error)
        else:
            refusal = ""
    if callback.penalty is None:
        assert "layer" in refusal
        return
    assert callback.penalty.isfinite()
    assert callback.penalty >= -1e-4
    assert model.gradients
    assert all(gradient.isfinite().all() for gradient in model.gradients)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("fuzz/")}
    assert not any(math.isnan(value) for value in logged.values()), logged


@QUICK
@given(
    st.tuples(st.integers(1, 3), st.integers(0, 12), st.integers(1, 9)),
    REGULARIZERS,
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([0.0, 1e-38, 1e-6, 1.0, 1e4]),
    st.booleans(),
)
def test_regularizers_are_finite_with_finite_gradients_for_any_values(shape, regularizer, dtype, scale, transposed):
    if regularizer.sampling is None:
        shape = (shape[0], shape[2], max(shape[1], 1))
    generator = torch.Generator().manual_seed(sum(shape))
    values = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    if transposed:
        values = values.mT.contiguous().mT
    values.requires_grad_()
    penalty = regularizer.penalty(LayerView(filters=values, outputs=values, seed=3))
    assert penalty.dtype == torch.promote_types(dtype, torch.float32)
    assert not penalty.isnan()
    (gradient,) = torch.autograd.grad(penalty, values)
    assert not gradient.isnan().any()


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_without_rows_adds_no_penalty_and_one_row_a_sound_one(rows):
    model = Fuzzed(nn.Linear(4, 3), torch.randn(rows, 4))
    callback = OrthogonalityCallback(log_every_n_steps=1)
    trainer = make_trainer(callback, limit_train_batches=1)
    trainer.fit(model)
    assert (callback.penalty == 0) == (rows == 0)
    assert not any(value.isnan() for value in trainer.callback_metrics.values())
