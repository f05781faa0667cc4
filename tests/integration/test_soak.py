"""A long training leaves nothing behind on the way."""

import gc
import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from ortho_lightning import OrthogonalityCallback
from tests.callbacks.helpers import boring, make_trainer

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Watch(Callback):
    """Resident memory, and how many hooks, open files, tensors and tensors with a graph there are."""

    def __init__(self, every):
        self.every = every
        self.resident, self.counts = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step % self.every:
            return
        gc.collect()
        tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
        self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE)
        self.counts.append(
            {
                "hooks": sum(len(part._forward_hooks) for part in pl_module.modules()),
                "files": len(os.listdir("/proc/self/fd")),
                "tensors": len(tensors),
                "graphs": sum(each.grad_fn is not None for each in tensors),
            }
        )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_twenty_thousand_steps_with_histograms_leave_memory_hooks_files_and_graphs_flat(tmp_path):
    steps = int(os.environ.get("ORTHO_SOAK_STEPS", "20000"))
    watch = Watch(every=steps // 40)
    callback = OrthogonalityCallback(weight=0.01, log_gradient_ratio_every_n_steps=100)
    trainer = make_trainer([callback, watch], max_steps=steps, logger=TensorBoardLogger(tmp_path))
    trainer.fit(boring().BoringModel())  # 64 batches an epoch, a histogram after each
    assert len(watch.resident) == 40
    half = watch.resident[20:]
    print(f"resident memory in MiB: {[round(value / 2**20, 1) for value in watch.resident]}")
    print(f"counts: {watch.counts[1]} ... {watch.counts[-1]}")
    assert max(half) - min(half) <= 0.01 * min(half)
    assert watch.counts[20] == watch.counts[-1]
