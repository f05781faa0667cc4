"""Kernels of modules of other packages, in the registry by name, so that none of them is imported."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ortho_lightning.layers.kernels import Columns, Kernel, Outputs, Rows
from ortho_lightning.layers.registry import register

_ADAPTER = "an adapter's outputs are those of its layers lora_A and lora_B: select these"
_MIXED = "its outputs mix parts of its filters, so they give no angles"
_INSIDE = "it multiplies with this weight inside of its forward, so the outputs are not seen"


@register("transformers.pytorch_utils.Conv1D", default=True)
def transformers_conv1d(module: Any) -> dict[str, Kernel]:
    """A linear layer with its weight transposed, ``(in, out)``, as GPT-2's."""
    return {
        "": Kernel("weight", Columns(), Outputs(-1, "bias", linear=True)),
        "columns": Kernel("weight", Rows(), _MIXED, on_request=True),
    }


@register("peft.tuners.lora.layer.LoraLayer")
def lora(module: Any) -> dict[str, Kernel]:
    """``A.<adapter>`` and ``B.<adapter>``: r filters each, the rows of A and the columns of B.

    On request only: A's layer is selected as ``lora_A.<adapter>``, a Linear, as well.
    """
    found = {}
    for adapter in module.lora_A:
        found[f"A.{adapter}"] = Kernel(f"lora_A.{adapter}.weight", Rows(), _ADAPTER, on_request=True)
        found[f"B.{adapter}"] = Kernel(f"lora_B.{adapter}.weight", Columns(), _ADAPTER, on_request=True)
    return found


@register("peft.tuners.adalora.layer.AdaLoraLayer")
def adalora(module: Any) -> dict[str, Kernel]:
    """``A.<adapter>`` and ``B.<adapter>``: P and Q of the singular value decomposition, r filters each."""
    found = {}
    for adapter in module.lora_A:
        found[f"A.{adapter}"] = Kernel(f"lora_A.{adapter}", Rows(), _INSIDE)
        found[f"B.{adapter}"] = Kernel(f"lora_B.{adapter}", Columns(), _INSIDE)
    return found


def fused_attention(module: Any) -> dict[str, Kernel]:
    """q, k and v of a projection that holds all three, and with the heads as groups heads.q, heads.k and heads.v.

    On request only: the projection is a layer too.
    """
    name, filters = ("qkv.weight", Rows) if hasattr(module, "qkv") else ("c_attn.weight", Columns)
    found = {}
    for i, part in enumerate("qkv"):
        found[part] = Kernel(name, filters(block=(i, 3)), _INSIDE, on_request=True)
        by_head = Rows(module.num_heads, (i, 3)) if filters is Rows else Columns(heads=module.num_heads, block=(i, 3))
        found[f"heads.{part}"] = Kernel(name, by_head, _INSIDE, on_request=True)
    return found


register("timm.layers.attention.Attention")(fused_attention)
register("transformers.models.gpt2.modeling_gpt2.GPT2Attention")(fused_attention)


def router(module: Any) -> Kernel:
    """Each expert is a filter; the first of its outputs are their logits."""
    bias = "bias" if getattr(module, "bias", None) is not None else None
    return Kernel("weight", Rows(), Outputs(-1, bias, element=0, linear=True))


def experts(module: Any) -> dict[str, Kernel]:
    """gate_up and down, with the experts as groups."""
    return {
        "gate_up": Kernel("gate_up_proj", _as_it_is, _INSIDE),
        "down": Kernel("down_proj", _as_it_is, _INSIDE),
    }


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


_MIXTURES = {
    "mixtral": "Mixtral",
    "minimax": "MiniMax",
    "olmoe": "Olmoe",
    "qwen2_moe": "Qwen2Moe",
    "qwen3_moe": "Qwen3Moe",
    "deepseek_v3": "DeepseekV3",
    "glm4_moe": "Glm4Moe",
}

for _family, _name in _MIXTURES.items():
    _place = f"transformers.models.{_family}.modeling_{_family}.{_name}"
    for _spelling in ("TopKRouter", "TopkRouter"):
        register(_place + _spelling)(router)
    register(f"{_place}Experts")(experts)
register("transformers.models.gpt_oss.modeling_gpt_oss.GptOssTopKRouter")(router)
