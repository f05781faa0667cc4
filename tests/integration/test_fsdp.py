"""FSDP2 on two processes against one process, and the sharding strategies that are refused."""

import pytest
import torch

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.callbacks.penalty.compatibility import check_strategy
from ortho_lightning.errors import ConfigurationError, UnsupportedLayerError
from ortho_lightning.regularizers import Gram
from tests.callbacks.helpers import boring, make_trainer
from tests.integration import ddp_script
from tests.integration.test_ddp import run


@pytest.mark.parametrize(("regularizer", "sync"), [("lsh", "global"), ("detached", "global"), ("gram", "local")])
def test_fsdp2_gives_the_gradients_weights_and_angles_of_one_process_with_the_joined_batch(tmp_path, regularizer, sync):
    ranks = run(tmp_path, sync, "plain", regularizer, "fsdp2")
    alone, callback = ddp_script.fit("local", False, devices=1, regularizer=regularizer)
    for found in ranks:
        torch.testing.assert_close(found["penalty"], callback.penalty, rtol=1e-10, atol=0)
        for name, expected in alone.found.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12, msg=name)
        for name, expected in alone.named_parameters():
            torch.testing.assert_close(found[f"{name} after"], expected.detach(), rtol=1e-9, atol=1e-12, msg=name)
        for layer, expected in zip(found["report"], callback.angle_report(), strict=True):
            assert (layer["name"], layer["groups"], layer["k"], layer["d"]) == tuple(
                expected[key] for key in ("name", "groups", "k", "d")
            )
            for key in ("mean", "stable_rank", "effective_rank", "largest_singular_value", "smallest_singular_value"):
                assert layer[key] == pytest.approx(expected[key], rel=1e-6), key
            assert layer["dead_filters"] == 0


@pytest.mark.parametrize("regularizer", ["gram", "srip"])
def test_a_decoupled_penalty_moves_the_shards_as_one_process_moves_the_whole(tmp_path, regularizer):
    ranks = run(tmp_path, "local", "plain", regularizer, "fsdp2", apply="decoupled")
    alone, callback = ddp_script.fit("local", False, devices=1, regularizer=regularizer, apply="decoupled")
    for found in ranks:
        torch.testing.assert_close(found["penalty"], callback.penalty, rtol=1e-9, atol=0)
        for name, expected in alone.named_parameters():
            torch.testing.assert_close(found[f"{name} after"], expected.detach(), rtol=1e-9, atol=1e-12, msg=name)


def test_fsdp1_is_refused_by_name():
    from pytorch_lightning.strategies import FSDPStrategy

    class Sharding:
        strategy = object.__new__(FSDPStrategy)

    with pytest.raises(ConfigurationError, match=r"strategy FSDPStrategy splits weights.*ModelParallelStrategy"):
        check_strategy(Sharding, gradient_ratio=False)


def test_an_output_that_is_a_part_of_the_filters_is_refused_by_name():
    """As tensor parallelism leaves it: each process answers for some of the filters."""

    class Part(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, :2]

    class Model(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = Part(32, 4)

    with pytest.raises(UnsupportedLayerError, match=r"'layer': its output of shape \(1, 2\).*Gram"):
        make_trainer(OrthogonalityCallback()).fit(Model())
    callback = OrthogonalityCallback(Gram())
    make_trainer(callback).fit(Model())
    assert callback.penalty is not None
