"""Muon for the kernels of hidden layers, beside another optimizer for all other parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.selection import Layers, select_layers

_WITH_KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Muon:
    """Muon, :class:`torch.optim.Muon`, for the kernels of a network's hidden layers.

    It orthogonalizes updates, not weights. Its learning rate is of its own: a learning-rate schedule multiplies the
    rates of both optimizers by the same factor, so that ``lr`` here is what Muon has where the schedule is at 1.

    Args:
        exclude: layers to leave to the other optimizer: the first and the last, as Muon is for hidden layers. A
            pattern, a list of patterns, or a predicate; see :func:`~ortho_lightning.layers.select_layers`.
        lr: learning rate where the schedule's factor is 1.
        momentum: of the gradient's running mean.
        nesterov: whether the update looks ahead.
        weight_decay: decoupled: a step multiplies the weight by ``1 - lr * weight_decay``.
        ns_steps: Newton-Schulz iterations.
        adjust_lr_fn: how ``lr`` depends on the shape of the matrix; None: ``sqrt(max(1, k / d))``.

    Raises:
        ConfigurationError: if torch has no Muon, which came with 2.9.
    """

    exclude: Layers = None
    lr: float = 1e-3
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.1
    ns_steps: int = 5
    adjust_lr_fn: str | None = None

    def __post_init__(self) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigurationError(
                f"Muon needs torch 2.9 or later, for torch.optim.Muon; this is {torch.__version__}. Upgrade torch, or "
                "leave the arm muon out"
            )

    def kernels(self, module: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that Muon trains.

        They are the trainable weights of ``Conv1d/2d/3d`` and ``Linear``. Left out are grouped convolutions, whose
        groups are matrices of their own, and weights that a parametrization makes.

        Raises:
            LayerSelectionError: if ``exclude`` matches no layer, or leaves none.
        """
        layers = [one for one in select_layers(module, None, self.exclude).values() if isinstance(one, _WITH_KERNELS)]
        weights = [layer._parameters.get("weight") for layer in layers if getattr(layer, "groups", 1) == 1]
        trained = [weight for weight in weights if weight is not None and weight.requires_grad]
        return list({id(weight): weight for weight in trained}.values())  # a shared one once

    def beside(self, rest: Optimizer, kernels: Sequence[nn.Parameter]) -> Optimizer:
        """Return one optimizer that trains ``kernels`` by Muon, and by ``rest`` what that has.

        Raises:
            ConfigurationError: without kernels, or for an optimizer that evaluates the loss several times a step.
        """
        return KernelOptimizer(kernels, self._make, rest)

    def _make(self, matrices: Sequence[Tensor]) -> Optimizer:
        options = {name: value for name, value in vars(self).items() if name != "exclude"}
        return torch.optim.Muon(matrices, **options)


class KernelOptimizer(Optimizer):
    """Two optimizers as one: an optimizer of matrices for kernels of any shape, and another for all other parameters.

    A convolution's kernel is the matrix ``(k, d)`` of its filters. The optimizer of matrices gets views of the kernels
    that share their memory. To everyone else this is an optimizer of the module's own parameters: the first of its
    ``param_groups`` has the kernels, the others are those of ``rest``, and a step is one step, with one set of hooks.
    The state of a kernel is in the order of its memory, so a checkpoint is for the same memory format.

    Args:
        kernels: parameters of two or more dimensions, none of which ``rest`` has.
        make: creates the optimizer of matrices, with one group of parameters.
        rest: trains its own parameters.

    Raises:
        ConfigurationError: without kernels, or for an optimizer that evaluates the loss several times a step.
    """

    def __init__(
        self, kernels: Sequence[nn.Parameter], make: Callable[[Sequence[Tensor]], Optimizer], rest: Optimizer
    ) -> None:
        if not kernels:
            raise ConfigurationError("an optimizer of kernels without kernels: select at least one layer with a weight")
        if isinstance(rest, torch.optim.LBFGS):
            raise ConfigurationError(
                "LBFGS evaluates the loss several times a step and cannot share it; use SGD or Adam"
            )
        self._matrices = make([_matrix(kernel, kernel) for kernel in kernels])
        self._rest = rest
        (group,) = self._matrices.param_groups
        super().__init__([{**group, "params": list(kernels)}, *rest.param_groups], {})
        self.defaults = rest.defaults  # of groups that are added later

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of both.

        Args:
            closure: evaluates the loss and its gradients, once, before either steps.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share()
        self._matrices.step()
        self._rest.step()
        return loss

    def _share(self) -> None:
        """Give both optimizers the groups and the state that are here now, also after a checkpoint was loaded."""
        kernels, *others = self.param_groups
        self._rest.param_groups, self._rest.state = others, self.state
        views = []
        self._matrices.state.clear()
        for kernel in kernels["params"]:
            view = _matrix(kernel, kernel)
            view.grad = None if kernel.grad is None else _matrix(kernel.grad, kernel)
            views.append(view)
            if kernel.grad is not None:
                self._matrices.state[view] = self.state[kernel]
        self._matrices.param_groups = [{**kernels, "params": views}]

    def __getstate__(self) -> dict[str, Any]:
        """Return all of it, for copies."""
        return {**super().__getstate__(), "_matrices": self._matrices, "_rest": self._rest}


def _matrix(tensor: Tensor, kernel: Tensor) -> Tensor:
    """Return a tensor of the shape of ``kernel`` as ``(k, d)``, its columns in the order of the kernel's memory.

    The kernel's own is a view; that of a gradient with another memory format a copy. The order of columns does not
    matter to Muon, as it permutes those of the update alike.
    """
    strides = kernel.stride()
    columns = sorted(range(1, kernel.dim()), key=lambda axis: -strides[axis])
    permuted = tensor.detach().permute(0, *columns)
    return permuted.view(len(kernel), -1) if tensor is kernel else permuted.reshape(len(kernel), -1)
