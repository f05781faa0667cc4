"""A check that a network takes the data's samples, before the first step."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback

from ortho_lightning.callbacks.fitting.modes import evaluating
from ortho_lightning.data.module import TensorDataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.messages import one_line
from ortho_lightning.models import Classifier


class MatchCheck(Callback):
    """Gives two samples to the network before training, so that a network for other data is one line, not a stack.

    The network is in evaluation mode and nothing is drawn at random, so training does not change.

    Args:
        model: name of the network in the configuration.
        data: name of the data.
    """

    def __init__(self, model: str, data: str) -> None:
        self._model = model
        self._data = data

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Run the network once.

        Raises:
            ConfigurationError: if it takes other inputs, or has fewer outputs than the data has classes.
        """
        data = trainer.datamodule
        # what a module of the user's own takes and returns is not known
        if stage != "fit" or not isinstance(pl_module, Classifier) or not isinstance(data, TensorDataModule):
            return
        splits = [split for split in data.splits.values() if len(split[0])]
        if not splits:
            return
        samples = data.prepare(splits[0][0][:2])
        outputs = self._outputs(pl_module, samples)
        classes = max(int(y.max()) + 1 for _, y in splits)
        if outputs.shape[-1] < classes:
            raise ConfigurationError(
                f"model={self._model} has {outputs.shape[-1]} outputs, and data={self._data} has {classes} classes: "
                f"set model.net.num_classes={classes}"
            )

    def _outputs(self, model: Any, samples: torch.Tensor) -> torch.Tensor:
        try:
            with evaluating(model):
                outputs = model(samples.to(model.device))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"model={self._model} does not take the samples of data={self._data}, of shape "
                f"{tuple(samples.shape[1:])}: choose another model or other data ({one_line(str(error))})"
            ) from error
        return outputs[0] if isinstance(outputs, tuple) else outputs
