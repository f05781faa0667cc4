"""Weights of another run as the start of a training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.messages import one_line


def load_pretrained(module: nn.Module, checkpoint: str, anew: str) -> None:
    """Load the weights and statistics of a checkpoint into a module, except for one layer, which starts anew.

    Args:
        module: of the same architecture, but for the layer that starts anew.
        checkpoint: path of a checkpoint of Lightning.
        anew: dotted name of that layer, such as the last one, whose classes differ.

    Raises:
        ConfigurationError: if there is no such file, or its weights cannot be read, are parametrized, or do not fit the
            module.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"pretrained={checkpoint}: there is no such file; give the checkpoint of another run")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:
        raise ConfigurationError(
            f"pretrained={checkpoint}: its weights cannot be read ({one_line(str(error))})"
        ) from error
    if any(".parametrizations." in name for name in saved):
        raise ConfigurationError(
            f"pretrained={checkpoint}: its weights are parametrized, as those of a constraint are; call the "
            "constraint's remove() after training and save the checkpoint then"
        )
    own = module.state_dict()
    kept, wanted = (
        {name: value for name, value in state.items() if not name.startswith(f"{anew}.")} for state in (saved, own)
    )
    other = [name for name in (*wanted, *kept) if name not in kept or name not in wanted]
    other += [name for name in kept if name in wanted and kept[name].shape != wanted[name].shape]
    if other or not kept:
        raise ConfigurationError(
            f"pretrained={checkpoint}: its weights do not fit this network, such as {', '.join(other[:3]) or anew}; "
            "use the model and the options that it was trained with"
        )
    module.load_state_dict({**own, **kept})
