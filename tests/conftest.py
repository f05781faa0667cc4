"""Shared data, golden values and the state that every test starts from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

SHARED = Path(os.environ.get("ORTHO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
GOLDEN = Path(__file__).with_name("golden")

settings.register_profile("untimed", deadline=None)  # a busy machine fails no property
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def shared():
    """Find a file or folder of the shared data; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"no shared data at {path}; set ORTHO_SHARED to the folder that holds it")
        return path

    return find


@pytest.fixture
def golden():
    """Golden values by file name, as float64 tensors."""

    def load(name: str) -> dict[str, torch.Tensor]:
        with np.load(GOLDEN / name) as stored:
            return {key: torch.from_numpy(np.asarray(stored[key])) for key in stored}

    return load
