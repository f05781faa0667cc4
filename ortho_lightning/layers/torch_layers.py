"""Kernels of torch's own modules, in the registry."""

from __future__ import annotations

from typing import Any

from torch import nn

from ortho_lightning.layers.kernels import Columns, Kernel, Outputs, Rows
from ortho_lightning.layers.registry import register

_MIXED = "its outputs mix parts of its filters, so they give no angles"
_LOOKED_UP = "its outputs are the filters themselves, looked up"
_INSIDE = "it computes its projections inside of one function, so the outputs of this one are not seen"
_GATES = "its outputs are those of the whole recurrence, not what its gates compute from one step"
_QUANTIZED = "its weight is quantized and does not train"

_GATE_NAMES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}


@register(nn.Linear, default=True)
def linear(module: nn.Linear) -> dict[str, Kernel]:
    """Each output is a filter; on request each input is, ``"layer:columns"``."""
    return {
        "": Kernel("weight", Rows(), Outputs(-1, "bias", linear=True), _counts(module, "out_features")),
        "columns": Kernel("weight", Columns(), _MIXED, _counts(module, "in_features"), on_request=True),
    }


@register(nn.Bilinear)
def bilinear(module: nn.Bilinear) -> Kernel:
    """Each output is a filter of the products of both inputs."""
    return Kernel("weight", Rows(), Outputs(-1, "bias"), _counts(module, "out_features"))


@register(nn.Conv1d, default=True)
@register(nn.Conv2d, default=True)
@register(nn.Conv3d, default=True)
def convolution(module: nn.Conv2d) -> Kernel:
    """Each channel is a filter, in groups."""
    outputs = Outputs(-1 - len(module.kernel_size), "bias")
    return Kernel("weight", Rows(module.groups), outputs, _counts(module, "out_channels", module.groups))


@register(nn.ConvTranspose1d)
@register(nn.ConvTranspose2d)
@register(nn.ConvTranspose3d)
def transposed_convolution(module: nn.ConvTranspose2d) -> Kernel:
    """A filter is what leads to a channel."""
    return Kernel("weight", Columns(module.groups), _MIXED, _counts(module, "out_channels", module.groups))


@register(nn.Embedding)
@register(nn.EmbeddingBag)
def embedding(module: nn.Embedding) -> Kernel:
    """Each entry's vector is a filter."""
    return Kernel("weight", Rows(), _LOOKED_UP, _counts(module, "num_embeddings"))


@register(nn.MultiheadAttention)
def attention(module: nn.MultiheadAttention) -> dict[str, Kernel]:
    """q, k, v and out; on request with the heads as groups: heads.q, heads.k, heads.v and heads.out.

    ``heads.out`` has the columns of the output projection, which a head writes with.
    """
    heads, width = module.num_heads, module.embed_dim
    fused = module._qkv_same_embed_dim
    found = {}
    for prefix, groups in (("", 1), ("heads.", heads)):
        for i, name in enumerate("qkv"):
            weight = "in_proj_weight" if fused else f"{name}_proj_weight"
            filters = Rows(groups, (i, 3) if fused else (0, 1))
            found[prefix + name] = Kernel(weight, filters, _INSIDE, (groups, width // groups), bool(prefix))
        own = Outputs(-1, "out_proj.bias", element=0)
        if prefix:
            found["heads.out"] = Kernel("out_proj.weight", Columns(1, heads), _MIXED, (heads, width // heads), True)
        else:
            found["out"] = Kernel("out_proj.weight", Rows(), own, (1, width))
    return found


@register(nn.RNNBase)
def recurrent(module: nn.RNNBase) -> dict[str, Kernel]:
    """Each gate's input and hidden kernel: ``ih_l0.i``, ``hh_l0.f``, ...; ``ih_l0`` of a net without gates."""
    gates = _GATE_NAMES.get(module.mode, ("",))
    found: dict[str, Kernel] = {}
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse") if module.bidirectional else ("",):
            for kind in ("ih", "hh"):
                found |= _gates(f"{kind}_l{layer}{suffix}", gates, module.hidden_size)
            if module.proj_size > 0:
                name = f"hr_l{layer}{suffix}"
                found[name] = Kernel(f"weight_{name}", Rows(), _GATES, (1, module.proj_size))
    return found


@register(nn.RNNCellBase)
def recurrent_cell(module: nn.RNNCellBase) -> dict[str, Kernel]:
    """Each gate's input and hidden kernel: ``ih.i``, ``hh.f``, ...; ``ih`` and ``hh`` of a cell without gates."""
    kind = next((name for name, cell in (("LSTM", nn.LSTMCell), ("GRU", nn.GRUCell)) if isinstance(module, cell)), "")
    gates = _GATE_NAMES.get(kind, ("",))
    return _gates("ih", gates, module.hidden_size) | _gates("hh", gates, module.hidden_size)


def _counts(module: nn.Module, attribute: str, groups: int = 1) -> tuple[int, int] | None:
    # a subclass of a user's own need not have the attribute
    count = getattr(module, attribute, None)
    return None if count is None else (groups, count // groups)


def _gates(name: str, gates: tuple[str, ...], width: int) -> dict[str, Kernel]:
    n = len(gates)
    return {
        f"{name}.{gate}" if gate else name: Kernel(f"weight_{name}", Rows(1, (i, n)), _GATES, (1, width))
        for i, gate in enumerate(gates)
    }


# by name: they are imported from deprecated modules


@register("torch.ao.nn.quantized.modules.utils.WeightedQuantizedModule")
def quantized(module: Any) -> Kernel:
    """Of its dequantized weight."""
    return Kernel("weight", Rows(getattr(module, "groups", 1)), _QUANTIZED)


@register("torch.ao.nn.quantized.modules.conv._ConvTransposeNd")
def quantized_transposed_convolution(module: Any) -> Kernel:
    """Of its dequantized weight."""
    return Kernel("weight", Columns(module.groups), _QUANTIZED)
