"""Precision, clipping and accumulation: steps equal those of a loop written by hand."""

import pytest
import torch

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import LSH
from tests.callbacks.helpers import ALL_ROWS, boring, lsh_penalty, make_trainer, twin


@pytest.mark.parametrize(("setting", "value"), [("norm", 0.5), ("value", 0.01)])
def test_clipping_and_accumulation_equal_a_hand_written_loop(setting, value):
    model = boring().BoringModel()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=4)
    callback = OrthogonalityCallback(ALL_ROWS, weight=0.7)
    make_trainer(callback, accumulate_grad_batches=4, gradient_clip_val=value, gradient_clip_algorithm=setting).fit(
        model, data
    )
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for x in data:
        output = reference(x)
        ((reference.loss(output) + 0.7 * lsh_penalty(output - reference.layer.bias)) / 4).backward()
    if setting == "norm":
        torch.nn.utils.clip_grad_norm_(reference.parameters(), value)
    else:
        torch.nn.utils.clip_grad_value_(reference.parameters(), value)
    optimizer.step()
    torch.testing.assert_close(model.layer.weight, reference.layer.weight)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_mixed_precision_scales_once_and_measures_in_float32(precision):
    plugins = []
    if precision == "16-mixed":
        from pytorch_lightning.plugins import MixedPrecision

        plugins = [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0))]

    class Model(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            return self.layer(1e4 * batch).float().square().mean() * 0

        def on_before_optimizer_step(self, optimizer):
            self.found = self.layer.weight.grad.clone()  # unscaled by now

    model = Model()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(LSH(max_samples=None, normalize="rms"), weight=0.7)
    options = {"plugins": plugins} if plugins else {"precision": precision}
    make_trainer(callback, **options).fit(model, data)
    assert callback.penalty.dtype == torch.float32
    assert callback.penalty.isfinite()
    output = 1e4 * next(iter(data)) @ reference.layer.weight.T
    penalty = 0.7 * lsh_penalty(OF.rms_normalize(output))
    expected = torch.autograd.grad(penalty, reference.layer.weight)[0]
    found = model.found.float()
    # eight bits of the outputs are left, not the 256-fold of a scale applied twice or never taken back
    assert (found - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed", "64-true"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_precision_equals_a_hand_written_loop_with_outputs_of_ten_thousand(precision, accumulate):
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    true = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)

    class Model(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            self.outputs = self.layer(batch)
            return self.outputs.float().square().mean() * 1e-10

        def on_before_optimizer_step(self, optimizer):
            self.gradient = self.layer.weight.grad.clone()  # unscaled by now

    torch.manual_seed(4)
    model = Model().to(true)
    reference = twin(model)
    x = 1.2e4 * torch.randn(accumulate, 8, 32, generator=torch.Generator().manual_seed(1)).to(true)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if precision == "16-mixed" else None
    options = {"precision": precision}
    if scaler is not None:
        from pytorch_lightning.plugins import MixedPrecision

        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}
    # the signs of outputs so large are all saturated, but for those divided by their root mean square
    callback = OrthogonalityCallback(LSH(max_samples=None, normalize="rms", gamma=1.0), weight=1.0)
    data = torch.utils.data.DataLoader(x, batch_size=None)
    make_trainer(callback, max_steps=1, accumulate_grad_batches=accumulate, **options).fit(model, data)
    for batch in x:
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            output = reference.layer(batch)
        observed = output.to(torch.promote_types(output.dtype, torch.float32))
        observed = observed - reference.layer.bias.to(observed.dtype)
        penalty = lsh_penalty(OF.rms_normalize(observed), gamma=1.0)
        (output.float().square().mean() * 1e-10 + penalty).div(accumulate).backward()
    assert model.outputs.abs().max() > 1e4
    assert callback.penalty.dtype == torch.promote_types(true, torch.float32)
    assert model.gradient.isfinite().all()
    error = (model.gradient - reference.layer.weight.grad).norm() / reference.layer.weight.grad.norm()
    assert error < {"64-true": 1e-9}.get(precision, 0.01)
