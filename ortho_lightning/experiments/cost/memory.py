"""Peak memory, of a training step and of a process.

:class:`StepMemory` counts torch's allocations in each training step; :class:`ProcessMemory` also sees those of
numpy and other libraries, as growth of the whole process.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


class StepMemory(Callback):
    """Record the most memory held during each training step; on a CPU from the allocations in torch's profiler.

    Attributes:
        peaks: bytes of each step.
    """

    def __init__(self) -> None:
        self.peaks: list[int] = []
        self._profile: Any = None
        self._before = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Begin to count."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        state = [value for group in trainer.optimizers[0].state.values() for value in group.values()]
        held = [*pl_module.parameters(), *pl_module.buffers(), *state]
        held += [parameter.grad for parameter in pl_module.parameters()]
        self._before = sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Record the peak."""
        if trainer.strategy.root_device.type == "cuda":
            self.peaks.append(torch.cuda.max_memory_allocated())
            return
        self._profile.stop()
        events = [event for event in self._profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = self._before
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        self.peaks.append(peak)


class ProcessMemory:
    """Largest growth of the process's own memory within a ``with`` block, sampled every hundredth of a second.

    Pages of mapped files are not counted: the system can reclaim them at any time.
    """

    def __enter__(self) -> ProcessMemory:
        """Begin to sample."""
        self._before = self._own()
        self._peak = self._before
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop sampling."""
        self._done.set()
        self._watch.join()

    @property
    def mib(self) -> float | None:
        """The growth in MiB; None outside Linux."""
        return None if self._peak is None or self._before is None else (self._peak - self._before) / 1024

    def _look(self) -> None:
        while self._peak is not None and not self._done.wait(0.01):
            self._peak = max(self._peak, self._own() or 0)

    @staticmethod
    def _own() -> int | None:
        status = Path("/proc/self/status")
        if os.name != "posix" or not status.exists():
            return None
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) if "RssAnon" in fields else None
