"""The message after Ctrl-C: the command that goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from ortho_lightning.experiments.common.invocation import own_overrides, typed

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@contextlib.contextmanager
def resumable(config: DictConfig) -> Iterator[None]:
    """End with the command that goes on where an interrupted training was, and status 130.

    Args:
        config: of the training.

    Raises:
        SystemExit: after an interruption.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning tears down and then exits with a status of its own
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        rank_zero_only(print)(f"\n{_how_to_go_on(config)}", flush=True)
        raise SystemExit(_INTERRUPTED) from None


def _how_to_go_on(config: DictConfig) -> str:
    overrides = [text for text in own_overrides() if not text.startswith("ckpt_path=")]
    if (Path(config.run_dir) / "checkpoints" / "last.ckpt").is_file():
        return f"interrupted; continue with: {typed('train', *overrides, 'ckpt_path=last')}"
    if config.ckpt_path is not None:
        return f"interrupted before a new checkpoint; continue with: {typed('train', *own_overrides())}"
    return f"interrupted before the first checkpoint; begin again with: {typed('train', *overrides)}"
