"""Options of sampling a layer's outputs."""

from __future__ import annotations

from dataclasses import dataclass

from ortho_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class Sampling:
    """Number of samples of a layer's outputs, and whether their gradient reaches the layer's inputs.

    Args:
        max_samples: 2 or more, spread evenly over the batch and the map, at other positions in each image; None: all.
        detach_inputs: the gradient reaches the filters only, not the layers below.

    Raises:
        ConfigurationError: for fewer than two samples.
    """

    max_samples: int | None = 768
    detach_inputs: bool = False

    def __post_init__(self) -> None:
        if self.max_samples is not None and self.max_samples < 2:
            raise ConfigurationError(
                f"max_samples={self.max_samples}: one sample gives no angle; give 2 or more, or None for all"
            )
