"""All classification models of torchvision."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

from ortho_lightning.experiments.subjects.subject import Subject

BATCH_SIZE = 2
_SMALL = 64
# Models that accept one image size only, or pool too much for smaller images.
_SIZES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56}


def names() -> list[str]:
    """Return the names of torchvision's classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def subject(name: str) -> Subject:
    """Return a model with random images."""
    size = _SIZES.get(name, _SMALL)
    return Subject(name, size, partial(_make, name, size), partial(images, size))


def images(size: int) -> dict[str, Any]:
    """Return random square images as the only argument."""
    return {"": torch.randn(BATCH_SIZE, 3, size, size)}


def _make(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = size
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # the default, without its warning
    return torchvision.models.get_model(name, weights=None, **options)
