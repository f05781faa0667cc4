"""The package imports no heavy package that Lightning does not import already."""

import subprocess
import sys

import pytest

# Distributions whose import takes long or that may be missing; they are imported where they are used.
HEAVY = {
    "faiss", "geotorch", "h5py", "hydra", "jinja2", "lightning", "matplotlib", "mlflow", "omegaconf", "optuna",
    "pandas", "peft", "pyarrow", "scipy", "sentence_transformers", "sklearn", "tensorboard", "timm", "torchvision",
    "transformers", "wandb",
}  # fmt: skip


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    shown = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return set(shown.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def loaded_by_lightning():
    return loaded_by("pytorch_lightning")


def test_import_loads_no_heavy_package_that_lightning_does_not_load(loaded_by_lightning):
    assert not (loaded_by("ortho_lightning") - loaded_by_lightning) & HEAVY
