"""A layer as a regularizer sees it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.random import mix

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
        self._of: LayerView | None = None

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

    @property
    def total_filters(self) -> int:
        """Number of filters of a group of the layer, of which this view may have some."""
        if self._of is not None:
            return self._of.total_filters
        return self.outputs.shape[-1] if self._filters is None else self.filters.shape[1]

    def some(self, count: int | None) -> LayerView:
        """Return a view of so many of the filters, drawn without repetition from the view's seed.

        The same filters are drawn of all groups, and of the outputs as of the weights. None, or as many as there are:
        all of them.
        """
        if count is None:
            return self
        drawn: list[Tensor] = []

        def of(values: Tensor, dim: int) -> Tensor:
            k = values.shape[dim]
            if k <= count:
                return values
            if not drawn:
                generator = torch.Generator(values.device).manual_seed(mix(self.seed, 2))
                drawn.append(torch.randperm(k, generator=generator, device=values.device)[:count])
            return values.index_select(dim, drawn[0].to(values.device))

        view = LayerView(
            None if self._filters is None else lambda: of(self.filters, 1),
            None if self._outputs is None else lambda: of(self.outputs, 2),
            name=self.name,
            module=self.module,
            seed=self.seed,
            memory=self.memory,
        )
        view._of = self
        return view

    def _made(self, what: str, value: Value) -> Tensor:
        if value is None:
            hint = "; set `sampling = Sampling()` on the regularizer" if what == "outputs" else ""
            raise ConfigurationError(
                f"layer {self.name!r}: the regularizer asked for {what}, which it has none of{hint}"
            )
        return value if isinstance(value, Tensor) else value()
