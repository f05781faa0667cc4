"""One small member of each architecture family of timm, without weights."""

from __future__ import annotations

from functools import partial

import timm
from torch import nn

from ortho_lightning.experiments.subjects.members import MEMBERS
from ortho_lightning.experiments.subjects.subject import Subject
from ortho_lightning.experiments.subjects.torchvision_models import images

_CLASSES = 10


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
    config = timm.models.get_pretrained_cfg(member)
    return 224 if config is None else int(config.input_size[-1])


def _make(member: str) -> nn.Module:
    made: nn.Module = timm.create_model(member, pretrained=False, num_classes=_CLASSES)
    return made
