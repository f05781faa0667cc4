"""Examples in docstrings and in the README run, and the README names every option and command."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import ortho_lightning

MODULES = [module.name for module in pkgutil.walk_packages(ortho_lightning.__path__, "ortho_lightning.")]
PACKAGE = Path(ortho_lightning.__file__).parent


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_module_docstring_opens_with_a_question_word():
    words = ("What", "How", "Which", "Where", "Whether")
    first = {name: (importlib.import_module(name).__doc__ or "").partition(" ")[0] for name in MODULES}
    assert [name for name in MODULES if first[name].rstrip(":,") in words] == []


def test_there_are_examples():
    found = [doctest.DocTestFinder().find(importlib.import_module(name)) for name in MODULES if "functional" in name]
    assert sum(bool(test.examples) for tests in found for test in tests) >= 5


def test_the_readme_example_runs_on_a_module_of_the_reader():
    from pytorch_lightning.demos.boring_classes import BoringModel
    from torch import nn

    class Mine(BoringModel):
        def __init__(self):
            super().__init__()
            self.layer1 = nn.ModuleDict({"conv1": nn.Linear(32, 32)})

        def training_step(self, batch, batch_idx):
            return super().training_step(self.layer1["conv1"](batch), batch_idx)

    readme = (PACKAGE.parent / "README.md").read_text()
    example = (
        readme.split("```python\n")[1]
        .split("```")[0]
        .replace("Trainer(", "Trainer(fast_dev_run=True, enable_progress_bar=False, enable_model_summary=False, ")
    )
    module = Mine()
    exec(compile(example, "README.md", "exec"), {"module": module, "data": module.train_dataloader()})


def test_the_readme_names_every_option_and_command():
    import inspect

    from ortho_lightning import OrthogonalityCallback, WhiteningCallback
    from ortho_lightning.regularizers import LSH

    readme = (PACKAGE.parent / "README.md").read_text()
    for made in (OrthogonalityCallback, LSH, WhiteningCallback):
        for name in inspect.signature(made).parameters:
            assert f"`{name}`" in readme, name
    for group in ("regularizer", "whitening"):
        for path in (PACKAGE.parent / "conf" / group).glob("*.yaml"):
            assert f"`{path.stem}`" in readme, path.stem
