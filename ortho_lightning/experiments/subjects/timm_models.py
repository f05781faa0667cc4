"""One small member of each architecture family of timm, without weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from ortho_lightning.experiments.subjects.members import MEMBERS
from ortho_lightning.experiments.subjects.subject import Subject
from ortho_lightning.experiments.subjects.torchvision_models import images

_CLASSES = 10
_USUAL = 224
_SMALL = 128
# Families whose smallest member is large: with fewer of its blocks, all alike.
_OPTIONS: dict[str, dict[str, Any]] = {"deepseek_vit_412m": {"depth": 2}, "gemma4_vit_167m_enc": {"depth": 2}}


def names() -> list[str]:
    """Return the names of the models: a small member of each family that timm has.

    Of a family that is newer than the list of members it is the first by name.
    """
    found = []
    for family in timm.list_modules():
        known = timm.list_models(module=family)
        member = MEMBERS.get(family)
        found += [f"timm/{member if member in known else known[0]}"] if known else []
    return found


def subject(name: str) -> Subject:
    """Return a model with random images of the size that it was made for."""
    member = name.rpartition("/")[2]
    size = _size(member)
    return Subject(name, size, partial(_make, member), partial(images, size))


def _size(member: str) -> int:
    """Return the size that a model was made for, or a smaller one where it takes any."""
    config = timm.models.get_pretrained_cfg(member)
    if config is None:
        return _USUAL
    size = int(config.input_size[-1])
    return _SMALL if size > _SMALL and not config.fixed_input_size and _takes(member, _SMALL) else size


def _takes(member: str, size: int) -> bool:
    """Return whether a model takes images of a size, asked without computing anything."""
    try:
        with torch.device("meta"), torch.no_grad():
            _make(member).eval()(torch.empty(2, 3, size, size))
    except Exception:
        return (
            False  # its windows do not divide the map; or it computes something to go on, and the size it has will do
        )
    return True


def _make(member: str) -> nn.Module:
    made: nn.Module = timm.create_model(member, pretrained=False, num_classes=_CLASSES, **_OPTIONS.get(member, {}))
    return made
