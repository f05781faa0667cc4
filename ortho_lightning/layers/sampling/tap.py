"""Sampling of a layer's outputs by a node of the graph that hands the output on."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.layers import weights
from ortho_lightning.layers.filters import Layer, filter_counts, has_filters
from ortho_lightning.layers.parts import part_of
from ortho_lightning.layers.sampling.positions import (
    Draws,
    Places,
    channel_axis,
    draws_of,
    flat,
    is_flat,
    outputs_place,
    places_of,
    positions_of,
)


def tap(layer: Layer, output: Tensor, max_samples: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return the output to hand on, and a sample of it whose gradient joins the output's in one node.

    For a slice, autograd fills a tensor of the output's size with zeros on the way back and adds it to the gradient
    that is there. This node adds the samples' gradient at their positions only. It saves nothing for the backward, so
    activation checkpointing may leave it out when it recomputes, and it can be differentiated twice.

    Where such a node cannot stand (on a view, under ``torch.func``, forward-mode differentiation or a module's backward
    hook of the older kind, for which it would be the module's own), the samples are the plain slice.

    Returns:
        The output, now after the node, and the samples ``(n, channels)``.
    """
    if not _can_tap(layer, output):
        return output, sample_outputs(layer, output, max_samples, seed)
    _lone()  # found out once, and outside of a backward
    places = places_of(positions_of(layer, output).shape, max_samples)
    # The node counts as a change in place, so that whoever holds the output already stands behind it too and a ReLU in
    # place may follow. Nothing has changed, though, for those who have saved the output before.
    with torch.autograd._unsafe_preserve_version_counter(output):
        return cast("tuple[Tensor, Tensor]", _Tap.apply(output, layer, places, draws_of(seed)))


def _can_tap(layer: Layer, output: Tensor) -> bool:
    module = part_of(layer).module
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
    def forward(ctx: Any, output: Tensor, layer: Layer, places: Places, draws: Draws) -> tuple[Tensor, Tensor]:
        ctx.axis, ctx.places, ctx.draws, ctx.shape = channel_axis(layer), places, draws, output.shape
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(output)
        return output, places.rows(flat(output, ctx.axis), draws)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, of_rows: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if of_rows is None:
            return gradient, None, None, None
        if gradient is None:
            gradient = of_rows.new_zeros(ctx.shape)
        elif gradient.layout != torch.strided:  # of a sparse embedding, say
            gradient = gradient.to_dense()
        elif torch.is_grad_enabled() or _holders(gradient) != _lone():
            gradient = gradient.clone()  # a branch beside this one, or a hook, may hold the same tensor
        if not is_flat(gradient, ctx.axis):
            gradient = gradient.contiguous()
        ctx.places.add(flat(gradient, ctx.axis), of_rows, ctx.draws)
        return gradient, None, None, None


# The references are counted by private functions of torch to save copies of the gradients of whole outputs: 315 MB in a
# step of a ResNet-18 at batch 128, 28 ms of 3.7 s on two cores. Without them every gradient is copied.


def _holders(gradient: Tensor) -> tuple[int, ...] | None:
    """Return how many hold an incoming gradient; None for a view, or where this version of torch does not tell."""
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
    """Return what :func:`_holders` says of a gradient that nobody else holds, from two graphs where that is known."""
    seen: list[Any] = []
    # hooks of its own, so that activation checkpointing does not count what is saved here
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        x = torch.ones(2, device="cpu", requires_grad=True)
        # not Tensor.backward, which programs and tests replace
        torch.autograd.backward(_Witness.apply(x.exp(), seen, None)[0].exp().sum())
        both = _Witness.apply(x.exp(), seen, None)[0] + _Witness.apply(x.exp(), seen, None)[0]
        torch.autograd.backward(both.exp().sum())
    if len(seen) != 3:
        return "unknown"  # nothing went back: a gradient is copied before it is written into
    lone, shared, _ = seen
    return "unknown" if lone is None or lone == shared else lone


def sample_outputs(layer: Layer, output: Tensor, max_samples: int | None, seed: int | Draws) -> Tensor:
    """Return a copy of the output at up to ``max_samples`` positions, channels last: ``(n, channels)``.

    Positions are the batch and what is not the channel axis; :class:`Places` says which. The seed alone moves them, so
    that every position is visited over the steps. Nothing but an index and a copy, so it may run inside a forward hook
    under activation checkpointing, before an in-place successor, and in compiled code, where the seed is a tensor of
    draws.
    """
    positions = positions_of(layer, output)
    draws = draws_of(seed)
    return places_of(positions.shape, max_samples).rows(positions, draws)


def as_samples(layer: Layer, rows: Tensor, biased: bool = True) -> Tensor:
    """Return samples as ``(groups, n, k)`` in float32 or better, without the bias.

    Args:
        layer: that they are of.
        rows: ``(n, channels)``, of the output; or ``(n, groups * k)`` computed again from inputs, without bias.
        biased: they are of the output.
    """
    place = outputs_place(layer)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    bias = _bias(layer) if biased else None
    if bias is not None:
        rows = rows - bias.to(rows.dtype)
    if biased and place.channels is not None:
        rows = rows[:, place.channels]
    groups = filter_counts(layer)[0] if has_filters(layer) else 1
    return rows.reshape(rows.shape[0], groups, rows.shape[1] // groups).transpose(0, 1)


def _bias(layer: Layer) -> Tensor | None:
    name = outputs_place(layer).bias
    if name is None:
        return None
    bias = cast("Tensor | None", getattr(*part_of(layer).holder(name)))
    return None if bias is None else weights.whole(bias)


def element_of(layer: Layer, output: Any) -> Any:
    """Return the part of a module's output that is the layer's; None if the output has no such part.

    A single tensor has none: its entries are samples. Nothing is raised here, since compilers trace this.
    """
    element = outputs_place(layer).element
    if element is None:
        return output
    if isinstance(output, Tensor):
        return None
    try:
        return output[element]
    except (KeyError, IndexError, TypeError):
        return getattr(output, element, None) if isinstance(element, str) else None


def single_tensor(name: str, layer: Layer) -> UnsupportedLayerError:
    """Return the error for a layer that is one element of the outputs, of a module whose output is a single tensor."""
    where = "element=" if part_of(layer).kernel is None else "element= of its kernel's Outputs(element=)"
    return UnsupportedLayerError(name, f"its output is a single tensor: leave {where} out")


def channels(layer: Layer, output: Tensor, axis: int | None = None) -> int:
    """Return the number of filters in the output; 0 if it is too small to have an axis for them.

    Args:
        layer: whose output it is.
        output: or samples of it.
        axis: of the filters; None: where the layer has them.
    """
    place = outputs_place(layer)
    axis = place.axis if axis is None else axis
    if not -output.dim() <= axis < output.dim():
        return 0
    size = output.shape[axis]
    return size if place.channels is None else len(range(*place.channels.indices(size)))


def only_a_part(name: str, outputs: Tensor) -> UnsupportedLayerError:
    """Return the error for outputs that are not those of all the layer's filters."""
    return UnsupportedLayerError(
        name,
        f"its output of shape {tuple(outputs.shape)} is not that of all its filters, as under tensor "
        "parallelism; use a weight-based regularizer, such as Gram() or LSH(probe='exact')",
    )


def covers_all_filters(layer: Layer, output: Any, axis: int | None = None) -> bool:
    """Return whether the output is a floating-point tensor with an entry for each of the layer's filters."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or hasattr(output, "full_tensor"):
        return False
    found = channels(layer, output, axis)
    return found == math.prod(filter_counts(layer)) if has_filters(layer) else found > 0
