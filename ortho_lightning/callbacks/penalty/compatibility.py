"""Checks and facts of a Trainer and a module that the penalty depends on."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ortho_lightning.errors import ConfigurationError


def check_strategy(trainer: Any, gradient_ratio: bool) -> None:
    """Reject strategies under which a layer's weight is no longer a tensor of its shape, or its gradient not whole.

    Args:
        trainer: of either package name of Lightning.
        gradient_ratio: gradients will be asked for beside the backward.

    Raises:
        ConfigurationError: naming the strategy.
    """
    strategy = trainer.strategy
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    name = type(strategy).__name__
    if "FSDPStrategy" in kinds or getattr(strategy, "zero_stage_3", False):
        raise ConfigurationError(
            f"strategy {name} splits weights into flat pieces, and a piece has no filters to compare. Use "
            "ModelParallelStrategy with fully_shard (FSDP2), or ddp."
        )
    if gradient_ratio and kinds & {"ModelParallelStrategy", "DeepSpeedStrategy"}:
        raise ConfigurationError(
            f"log_gradient_ratio_every_n_steps or weight=GradientShare(...) under strategy {name}: gradients of "
            "sharded weights exist in its own backward only. Choose a weight on one process or under ddp, and leave "
            "log_gradient_ratio_every_n_steps=None here."
        )


def total_steps(trainer: Any, module: Any) -> float:
    """Return the number of steps of the training as the callback counts them."""
    total = trainer.estimated_stepping_batches
    if not module.automatic_optimization and trainer.max_steps > 0:
        # Lightning counts the steps of every optimizer towards max_steps, the callback their batch once
        total = min(total, math.ceil(trainer.max_steps / max(len(trainer.optimizers), 1)))
    return float(total)


def is_compiled(module: nn.Module) -> bool:
    """Return whether torch.compile was asked for the module or a part of it."""
    return getattr(module, "_compiler_ctx", None) is not None or any(
        "_orig_mod" in part._modules or part._compiled_call_impl is not None  # torch.compile(m) and m.compile()
        for part in module.modules()
    )


def loss_scale(trainer: Any) -> float:
    """Return what mixed precision in 16 bits multiplies the loss by; 1 without."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
