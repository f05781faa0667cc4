"""A layer as a regularizer sees it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError

Value = Tensor | Callable[[], Tensor] | None


class LayerView:
    """One run of a layer: its filters and, where the regularizer observes them, a sample of its outputs.

    Args:
        filters: ``(groups, k, d)``, with their graph; or a function that makes them when they are asked for.
        outputs: pre-activation outputs without bias, ``(groups, n, k)``, in float32 or better; or a function likewise.
        name: dotted name of the layer in the model.
        module: the layer itself, for penalties that need its stride, padding or shape.
        seed: differs between layers and steps, for penalties that draw numbers.
        memory: tensors that a penalty keeps of this layer from step to step, by name; saved in checkpoints.

    Example:
        >>> import torch
        >>> from ortho_lightning.regularizers import Gram, LayerView
        >>> Gram().penalty(LayerView(filters=torch.eye(3).unsqueeze(0)))
        tensor(0.)
    """

    def __init__(
        self,
        filters: Value = None,
        outputs: Value = None,
        *,
        name: str = "",
        module: nn.Module | None = None,
        seed: int = 0,
        memory: dict[str, Tensor] | None = None,
    ) -> None:
        self.name = name
        self.module = module
        self.seed = seed
        self.memory = {} if memory is None else memory
        self._filters = filters
        self._outputs = outputs

    @property
    def filters(self) -> Tensor:
        """The layer's filters, ``(groups, k, d)``."""
        self._filters = self._made("filters", self._filters)
        return self._filters

    @property
    def outputs(self) -> Tensor:
        """The sampled outputs, ``(groups, n, k)``."""
        self._outputs = self._made("outputs", self._outputs)
        return self._outputs

    @property
    def has_outputs(self) -> bool:
        """Whether outputs were sampled."""
        return self._outputs is not None

    def _made(self, what: str, value: Value) -> Tensor:
        if value is None:
            hint = "; set `sampling = Sampling()` on the regularizer" if what == "outputs" else ""
            raise ConfigurationError(
                f"layer {self.name!r}: the regularizer asked for {what}, which it has none of{hint}"
            )
        return value if isinstance(value, Tensor) else value()
