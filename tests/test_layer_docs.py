"""The examples of docs/layers.md and docs/adapters.md run as they are written."""

from pathlib import Path

import pytest
import torch
from torch import nn

import ortho_lightning
from ortho_lightning import Gram, OrthogonalityCallback, layers
from ortho_lightning.layers import registry

DOCS = Path(ortho_lightning.__file__).parents[1] / "docs"


def examples(page):
    return [block.split("```")[0] for block in (DOCS / page).read_text().split("```python\n")[1:]]


def run(example, **names):
    exec(compile(example, "example", "exec"), names)
    return names


def test_the_adapter_example_trains(monkeypatch):
    for package in ("peft", "transformers"):
        pytest.importorskip(package)
    example = examples("adapters.md")[0]
    assert sum(line.rstrip().endswith("# +") for line in example.splitlines()) == 3
    shorter = example.replace("Trainer(max_epochs=20", "Trainer(fast_dev_run=True, enable_progress_bar=False")
    assert shorter != example
    callback = run(shorter, __name__="example")["callback"]
    report = callback.angle_report()
    assert len(report) == 8
    assert {row["k"] for row in report} == {16}
    assert callback.penalty > 0


def test_the_recipes_are_the_files(monkeypatch):
    pytest.importorskip("hydra")
    monkeypatch.chdir(DOCS.parent)
    loaded = next(example for example in examples("adapters.md") if "OmegaConf" in example)
    assert run(loaded)["callback"].weight == 0.1
    page = (DOCS / "adapters.md").read_text()
    for path in (DOCS.parent / "conf" / "recipe").glob("*.yaml"):
        assert f"| `{path.stem}` |" in page


def test_a_registration_of_the_readers_own(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    class MyAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query_value = nn.Parameter(torch.randn(6, 4))
            self.up, self.down = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))

    own = next(example for example in examples("layers.md") if "register" in example)
    run(own, MyAttention=MyAttention)
    found = layers.select_parts(nn.ModuleDict({"block": MyAttention()}), "block")
    assert list(found) == ["block:query", "block:value", "block:mixed"]


def test_selections_and_the_covariance_of_the_page():
    selecting, _, outputs, covariance = examples("layers.md")
    run(selecting, OrthogonalityCallback=OrthogonalityCallback, Gram=Gram)
    own = run(covariance, torch=torch)["Covariance"]
    run(outputs, OrthogonalityCallback=OrthogonalityCallback, MyCovariance=own)
    z = torch.randn(9, 4)
    c = torch.cov(z.T)
    expected = (c - c.diag().diag()).square().sum() / 4
    torch.testing.assert_close(own().penalty(ortho_lightning.regularizers.LayerView(outputs=z[None])), expected)


def test_the_table_has_every_module_of_torch_that_is_registered():
    page = (DOCS / "layers.md").read_text()
    for kind in registry._ENTRIES:
        if isinstance(kind, type) and kind.__module__.startswith("torch.nn"):
            name = {"RNNBase": "RNN", "RNNCellBase": "RNNCell"}.get(kind.__name__, kind.__name__)
            assert f"`{name}`" in page or f"`{name[-2:]}`" in page, name
