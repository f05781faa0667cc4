"""What a layer answers to its inputs: a sample of its outputs, taken so that training hardly notices.

``tap`` in a forward hook (or ``sample_outputs``, the plain form of it) and ``as_samples`` after it give the outputs
without bias, ``(groups, n, k)``, at positions spread evenly over the batch and the map, which move with a seed.
"""

from __future__ import annotations

import functools
import math
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
    places = _places(_positions(module, output).shape, max_samples, seed)
    # The node counts as a change in place, so that whoever holds the output already stands behind it too and a ReLU in
    # place may follow. Nothing has changed, though, for those who have saved the output before.
    with torch.autograd._unsafe_preserve_version_counter(output):
        return cast("tuple[Tensor, Tensor]", _Tap.apply(output, module, places))


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
    def forward(ctx: Any, output: Tensor, module: nn.Module, places: _Places) -> tuple[Tensor, Tensor]:
        ctx.axis, ctx.places, ctx.shape = _channel_axis(module), places, output.shape
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(output)
        return output, places.rows(_flat(output, ctx.axis))

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
        if not _is_flat(gradient, ctx.axis):
            gradient = gradient.contiguous()
        ctx.places.add(_flat(gradient, ctx.axis), of_rows)
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
    """A copy of the output at up to ``max_samples`` positions, channels last: ``(n, channels)``.

    Positions are the batch and what is not the channel axis; :class:`_Places` says which. The seed alone moves them, so
    that every position is visited over the steps. Nothing but slices and a copy, so it may run inside a forward hook
    under activation checkpointing, and before an in-place successor.
    """
    positions = _positions(module, output)
    return _places(positions.shape, max_samples, seed).rows(positions)


@dataclass(frozen=True)
class SampledInputs:
    """Inputs without graph, and how a convolution goes over them to give what :func:`sample_outputs` would take."""

    x: Tensor
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


def sample_inputs(module: nn.Module, x: Tensor, output: Tensor, max_samples: int | None, seed: int) -> SampledInputs:
    """What :func:`outputs_from_inputs` needs to find the outputs of :func:`sample_outputs` again.

    Linear: the rows ``(n, d)``. Convolutions: the patches under the filters, ``(n, channels, *kernel)``, or with
    ``max_samples=None`` the padded images, which are smaller than all their patches.
    """
    x = x.detach()
    positions = _positions(module, output)
    places = _places(positions.shape, max_samples, seed)
    if isinstance(module, nn.Linear):
        return SampledInputs(places.rows(_flat(x, -1)))
    convolution = cast(nn.Conv2d, module)
    dimensions = len(convolution.kernel_size)
    x = x.unsqueeze(0) if x.dim() == dimensions + 1 else x
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    x = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
    if max_samples is None:
        return SampledInputs(x.clone(), convolution.stride, convolution.dilation)
    for axis, (kernel, stride, dilation) in enumerate(
        zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True), start=2
    ):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    numbers = torch.arange(positions.shape[0] * positions.shape[1], device=x.device).view(*positions.shape[:2], 1)
    image, *place = torch.unravel_index(places.rows(numbers).squeeze(-1), (x.shape[0], *x.shape[2 : 2 + dimensions]))
    patches: tuple[Any, ...] = (image, slice(None), *place)
    return SampledInputs(x[patches], (1,) * dimensions, (1,) * dimensions)


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
        answer = convolve(x, weight, None, inputs.stride, 0, inputs.dilation, convolution.groups)
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


def _channel_axis(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else -1 - len(cast(nn.Conv2d, module).kernel_size)


def _positions(module: nn.Module, output: Tensor) -> Tensor:
    return _flat(output, _channel_axis(module))


def _flat(output: Tensor, axis: int) -> Tensor:
    """The output as ``(batch, map, channels)``, with one row in a batch or a map that is not there."""
    output = output.unsqueeze(0) if output.dim() == 1 else output
    output = output.movedim(axis, -1)
    return output.unsqueeze(1) if output.dim() == 2 else output.flatten(1, -2)


def _is_flat(output: Tensor, axis: int) -> bool:
    """Whether :func:`_flat` gives a view, as it does for every usual layout, and not a copy."""
    return _flat(output, axis).untyped_storage().data_ptr() == output.untyped_storage().data_ptr()


@dataclass(frozen=True)
class _Places:
    """Where rows are taken: from each image at regular distances along the flattened map, from each at others.

    The same places in every image would be the simpler slice and a much worse sample: most places would not be seen in
    a step. So the image that is j-th of its block begins at phase (j + turn) mod period of the distance: a diagonal of
    a view, in two parts where it starts again.
    """

    images: slice
    blocks: int
    teeth: slice
    """The part of the map that divides into distances."""
    distance: int
    phases: slice
    """The places within a distance at which an image may begin."""
    turn: int

    def parts(self, positions: Tensor) -> list[Tensor]:
        """Views ``(blocks, images, teeth, channels)`` of ``(batch, map, channels)`` with all the rows between them."""
        cells = positions[self.images, self.teeth].unflatten(1, (-1, self.distance))[:, :, self.phases]
        cells = cells.unflatten(0, (self.blocks, -1))
        period = cells.shape[3]
        both = (cells.diagonal(offset, 1, 3).movedim(-1, 1) for offset in (self.turn, self.turn - period))
        return [part for part in both if part.shape[1] > 0]

    def rows(self, positions: Tensor) -> Tensor:
        """A copy of the rows, ``(n, channels)``."""
        if positions.numel() == 0:
            return positions.flatten(0, 1).clone()
        return torch.cat(self.parts(positions), 1).flatten(0, -2)

    def add(self, positions: Tensor, rows: Tensor) -> None:
        """Add the rows where they were taken from, in place."""
        if positions.numel() == 0:
            return
        parts = self.parts(positions)
        blocks, _, teeth, channels = parts[0].shape
        by_image = rows.view(blocks, -1, teeth, channels)
        for part, own in zip(parts, by_image.split([part.shape[1] for part in parts], 1), strict=True):
            part += own


def _places(shape: Sequence[int], max_samples: int | None, seed: int) -> _Places:
    """Up to ``max_samples`` places in ``(batch, map, channels)``; how many depends on the shape alone."""
    batch, size, _ = shape
    if batch * size == 0:
        return _Places(slice(None), 1, slice(None), 1, slice(None), 0)
    rows = batch * size if max_samples is None else min(max_samples, batch * size)
    teeth = size // (math.ceil(size / rows) if batch == 1 else min(size, batch * size // rows))
    distance = size // teeth
    images = min(batch, rows // teeth)
    step = _without_common_factor(max(1, distance // images), size)
    period = distance // step
    blocks = math.ceil(images / period)
    if images // period * period >= images // blocks * blocks:
        blocks = images // period
    images = blocks * min(images // blocks, period)

    def drawn(number: int, below: int) -> int:
        return mix(seed, number) % below

    every = batch // images
    first = drawn(0, batch - (images - 1) * every)
    begin = drawn(1, size - teeth * distance + 1)
    phase = drawn(2, distance - (period - 1) * step)
    return _Places(
        images=slice(first, first + (images - 1) * every + 1, every),
        blocks=blocks,
        teeth=slice(begin, begin + teeth * distance),
        distance=distance,
        phases=slice(phase, phase + (period - 1) * step + 1, step),
        turn=drawn(3, period),
    )


def _without_common_factor(step: int, size: int) -> int:
    """The largest number up to ``step`` that meets every column: it has no factor in common with the map's size."""
    return next(value for value in range(step, 0, -1) if math.gcd(value, size) == 1)
