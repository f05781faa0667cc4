"""Kernels of modules of other packages, in the registry by name, so that none of them is imported."""

from __future__ import annotations

from typing import Any

from ortho_lightning.layers.kernels import Columns, Kernel, Outputs, Rows
from ortho_lightning.layers.registry import register

_ADAPTER = "an adapter's outputs are those of its layers lora_A and lora_B: select these"
_MIXED = "its outputs mix parts of its filters, so they tell no angles"
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
