"""What a layer answers to its inputs: a sample of its outputs, taken so that training hardly notices.

``tap`` in a forward hook (or ``sample_outputs``, the plain form of it) and ``as_samples`` after it give the outputs
without bias, ``(groups, n, k)``, at positions on a regular grid whose place is drawn from a seed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from ortho_lightning.kernels import effective_weight, mix, whole


def tap(module: nn.Module, output: Tensor, max_samples: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """The output to hand on, and the rows of :func:`sample_outputs`, whose gradient joins the output's in one node.

    For a slice, autograd fills a tensor of the output's size with zeros on the way back and adds it to the gradient
    that is there. This node adds the rows' gradient at their positions only. It saves nothing for the backward, so
    activation checkpointing may leave it out when it recomputes, and it can be differentiated twice.

    Where such a node cannot stand (on a view, under ``torch.func``, forward-mode differentiation or a module's backward
    hook of the older kind, for which it would be the module's own), the rows are the plain slice.

    Returns:
        The output, now after the node, and the rows ``(n, channels)``.
    """
    if not _can_tap(module, output):
        return output, sample_outputs(module, output, max_samples, seed)
    prepare()
    grid = _grid(_channels_last(module, output).shape[:-1], max_samples, seed)
    # The node counts as a change in place, so that whoever holds the output already stands behind it too and a ReLU in
    # place may follow. Nothing has changed, though, for those who have saved the output before.
    with torch.autograd._unsafe_preserve_version_counter(output):
        return cast("tuple[Tensor, Tensor]", _Tap.apply(output, _channel_axis(module), grid))


def prepare() -> None:
    """Find out, once, how :func:`tap` knows a gradient that it may write into; best before any training step."""
    _lone()


def _can_tap(module: nn.Module, output: Tensor) -> bool:
    return (
        type(output) is Tensor
        and output.dim() > 1
        and output.grad_fn is not None
        and not output._is_view()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and getattr(module, "_is_full_backward_hook", None) is not False
    )


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, axis: int, grid: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        ctx.axis, ctx.grid, ctx.shape = axis, grid, output.shape
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(output)
        return output, _copied_rows(output.movedim(axis, -1)[grid])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, of_rows: Tensor | None) -> tuple[Tensor | None, None, None]:
        if of_rows is None:
            return gradient, None, None
        if gradient is None:
            gradient = of_rows.new_zeros(ctx.shape)
        elif gradient.layout != torch.strided:  # of a sparse embedding, say
            gradient = gradient.to_dense()
        elif torch.is_grad_enabled() or _holders(gradient) != _lone():
            gradient = gradient.clone()  # a branch beside this one, or a hook, may hold the same tensor
        rows = gradient.movedim(ctx.axis, -1)[ctx.grid]
        rows += of_rows.view(rows.shape)
        return gradient, None, None


def _holders(gradient: Tensor) -> tuple[int, ...] | None:
    """How many hold an incoming gradient; None for a view, or where this version of torch does not tell."""
    storage = gradient.untyped_storage()
    if gradient._base is not None or storage.nbytes() != gradient.numel() * gradient.element_size():
        return None
    try:
        # not among the methods that every version of torch declares
        return cast(Any, gradient)._use_count(), torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(gradient)
    except AttributeError:
        return None


class _Witness(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, seen: list[Any], _: Any) -> tuple[Tensor, Tensor]:
        ctx.seen = seen
        ctx.mark_dirty(output)
        return output, output.new_zeros(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, of_rows: Tensor | None) -> tuple[Tensor | None, None, None]:
        assert gradient is not None
        ctx.seen.append(_holders(gradient))
        return gradient, None, None


@functools.cache
def _lone() -> tuple[int, ...] | str:
    """What :func:`_holders` says of a gradient that is nobody else's, seen in two graphs of which that is known."""
    seen: list[Any] = []
    # hooks of its own, so that activation checkpointing does not count what is saved here
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        x = torch.ones(2, device="cpu", requires_grad=True)
        _Witness.apply(x.exp(), seen, None)[0].exp().sum().backward()
        (_Witness.apply(x.exp(), seen, None)[0] + _Witness.apply(x.exp(), seen, None)[0]).exp().sum().backward()
    lone, shared, _ = seen
    return "unknown" if lone is None or lone == shared else lone


def sample_outputs(module: nn.Module, output: Tensor, max_samples: int | None, seed: int) -> Tensor:
    """A copy of the output at up to ``max_samples`` positions on a regular grid, channels last: ``(n, channels)``.

    Positions are the batch and what is not the channel axis. The grid's offset along each axis is drawn from ``seed``
    alone, so that every position is visited over the steps. Nothing but a slice and a copy, so it may run inside a
    forward hook under activation checkpointing, and before an in-place successor.
    """
    positions = _channels_last(module, output)
    return _copied_rows(positions[_grid(positions.shape[:-1], max_samples, seed)])


@dataclass(frozen=True)
class SampledInputs:
    """Inputs without graph, and the strides over them that give the outputs which :func:`sample_outputs` would take."""

    x: Tensor
    stride: tuple[int, ...]


def sample_inputs(module: nn.Module, x: Tensor, output: Tensor, max_samples: int | None, seed: int) -> SampledInputs:
    """What :func:`outputs_from_inputs` needs to find the outputs of :func:`sample_outputs` again.

    Linear: the rows ``(n, d)``. Convolutions: the sampled images, padded and cut to begin at the grid's offset.
    """
    x = x.detach()
    grid = _grid(_channels_last(module, output).shape[:-1], max_samples, seed)
    if isinstance(module, nn.Linear):
        return SampledInputs(torch.atleast_2d(x)[grid].clone().flatten(0, -2), ())
    convolution = cast(nn.Conv2d, module)
    if x.dim() == len(convolution.kernel_size) + 1:
        x = x.unsqueeze(0)
        grid = (slice(0, 1, 1), *grid)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    x = F.pad(x[grid[0]], convolution._reversed_padding_repeated_twice, mode=mode)
    # Output o + i s reads inputs from (o + i s) * stride on: begin there, and end with the last one's receptive field.
    windows = []
    for axis, cut in enumerate(grid[1:]):
        stride, reach = convolution.stride[axis], convolution.dilation[axis] * (convolution.kernel_size[axis] - 1) + 1
        windows.append(slice(cut.start * stride, (cut.stop - 1) * stride + reach))
    strides = tuple(stride * cut.step for stride, cut in zip(convolution.stride, grid[1:], strict=True))
    window = (slice(None), slice(None), *windows)
    return SampledInputs(x[window].clone(), strides)


def outputs_from_inputs(module: nn.Module, inputs: SampledInputs, weight: Tensor | None = None) -> Tensor:
    """What the layer answers, without bias, to the inputs of :func:`sample_inputs`: ``(n, channels)``.

    ``weight`` is as in :func:`filters`.
    """
    weight = effective_weight(module) if weight is None else weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight, x = weight.to(dtype), inputs.x.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(module, nn.Linear):
            return F.linear(x, weight)
        convolution = cast(nn.Conv2d, module)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(inputs.stride)]
        answer = convolve(x, weight, None, inputs.stride, 0, convolution.dilation, convolution.groups)
    return answer.movedim(1, -1).flatten(0, -2)


def as_samples(module: nn.Module, rows: Tensor, biased: bool = True) -> Tensor:
    """Rows ``(n, channels)`` as ``(groups, n, k)`` in float32 or better, the bias taken off (its gradient too)."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if biased and module.bias is not None:
        rows = rows - whole(cast(Tensor, module.bias)).to(rows.dtype)
    groups = getattr(module, "groups", 1)
    return rows.reshape(rows.shape[0], groups, rows.shape[1] // groups).transpose(0, 1)


def channels(module: nn.Module, output: Tensor) -> int:
    """How many filters the output has answers of; 0 if it is too small to have an axis for them."""
    axis = _channel_axis(module)
    return output.shape[axis] if output.dim() >= -axis else 0


def _channels_last(module: nn.Module, output: Tensor) -> Tensor:
    """The output with the channels as its last axis, the batch (one row if there is none) and the map before it."""
    output = output.unsqueeze(0) if output.dim() == 1 else output
    return output.movedim(_channel_axis(module), -1)


def _channel_axis(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else -1 - len(cast(nn.Conv2d, module).kernel_size)


def _copied_rows(positions: Tensor) -> Tensor:
    return positions.clone(memory_format=torch.contiguous_format).flatten(0, -2)


def _grid(sizes: Sequence[int], max_samples: int | None, seed: int) -> tuple[slice, ...]:
    """A regular grid of up to ``max_samples`` positions: as many along the batch as fit, the rest over the others.

    The number of positions depends on the sizes alone. The offset of each axis is drawn by itself, so that no axis
    pairs with another as a single stride over the flattened map would pair them.
    """
    slices = []
    left = max_samples
    for axis, size in enumerate(sizes):
        if left is None or size == 0:
            slices.append(slice(0, size, 1))
            continue
        remaining = len(sizes) - axis
        share = left if axis == 0 else _integer_root(left, remaining)
        count = max(1, min(size, share))
        step = size // count
        offset = mix(seed, axis) % (size - (count - 1) * step)
        slices.append(slice(offset, offset + (count - 1) * step + 1, step))
        left //= count
    return tuple(slices)


def _integer_root(value: int, degree: int) -> int:
    root = round(value ** (1 / degree))
    return root if root**degree <= value else root - 1
