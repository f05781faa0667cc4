"""The statements of docs/layers.md and docs/adapters.md on their examples hold."""

import pytest
import torch
from torch import nn

from ortho_lightning import layers
from ortho_lightning.layers import registry
from ortho_lightning.regularizers import LayerView, vicreg_cov
from tests.pages import ROOT, examples, run, text_of
from tests.readers import MyAttention, language_model


def test_the_adapter_example_trains():
    for package in ("peft", "transformers"):
        pytest.importorskip(package)
    example = examples("adapters.md")[0]
    assert sum(line.rstrip().endswith("# +") for line in example.splitlines()) == 3
    callback = run(example, {})["callback"]
    report = callback.angle_report()
    assert len(report) == 8
    assert {row["k"] for row in report} == {16}
    assert callback.penalty > 0


def test_the_recipes_are_the_files(monkeypatch, tmp_path):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    loaded = next(example for example in examples("adapters.md") if "OmegaConf" in example)
    assert run(loaded, {})["callback"].weight == 0.1
    page = text_of("adapters.md")
    for path in (ROOT / "conf" / "recipe").glob("*.yaml"):
        assert f"| `{path.stem}` |" in page


def test_what_the_page_says_of_peft():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(language_model(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    alone = next(example for example in examples("adapters.md") if "# A alone" in example)
    found = layers.select_parts(model, run(alone, {})["callback"].layers)
    assert [layers.filter_counts(part) for part in found.values()] == [(1, 4)] * 4
    assert list(found) == list(layers.select_parts(model, ["*.lora_A.default", "*:A.default"]))
    usual = layers.select_parts(model)
    for kind, d, trains in (("base_layer", 16, False), ("lora_A.default", 16, True), ("lora_B.default", 4, True)):
        part = next(part for name, part in usual.items() if name.endswith(kind))
        assert layers.layer_filters(part).shape[2] == d
        assert all(p.requires_grad is trains for p in part.module.parameters())


def test_the_o_lora_example():
    pytest.importorskip("peft")
    example = next(example for example in examples("adapters.md") if "add_adapter" in example)
    made = run(example, {"language_model": language_model()})
    found = layers.select_parts(made["model"], made["callback"].layers)
    assert len(found) == 4
    assert all(name.endswith(":A.new") for name in found)
    for name, part in found.items():
        view = LayerView(layers.layer_filters(part), name=name, module=part.module)
        assert made["callback"].regularizer.penalty(view) > 0
    trained = [name for name, parameter in made["model"].named_parameters() if parameter.requires_grad]
    assert len(trained) == 8
    assert all(".new." in name for name in trained)


def test_registrations_of_the_readers_own(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    whole, own = (example for example in examples("layers.md") if "register" in example)
    made = run(whole, {})
    towers = made["Towers"]()
    found = layers.select_parts(nn.ModuleDict({"towers": towers, "head": nn.Linear(2, 2)}), made["callback"].layers)
    assert list(found) == ["towers:user", "towers:item"]
    torch.testing.assert_close(layers.layer_filters(found["towers:user"])[0], towers.user)
    torch.testing.assert_close(layers.layer_filters(found["towers:item"])[0], towers.item.T)
    assert towers(torch.ones(3, 32), torch.ones(3, 32)).shape == (3,)
    run(own, {"MyAttention": MyAttention})
    found = layers.select_parts(nn.ModuleDict({"block": MyAttention()}), "block")
    assert list(found) == ["block:query", "block:value", "block:mixed"]


def test_selections_and_the_covariance_of_the_page():
    selecting, _, _, outputs, covariance = examples("layers.md")
    run(selecting, {})
    run(outputs, {})
    own = run(covariance, {})["callback"].regularizer
    z = torch.randn(9, 4)
    c = torch.cov(z.T)
    expected = (c - c.diag().diag()).square().sum() / 4
    torch.testing.assert_close(own.penalty(LayerView(outputs=z[None])), expected)
    torch.testing.assert_close(vicreg_cov(max_samples=None).penalty(LayerView(outputs=z[None])), expected)


def test_the_table_has_every_module_of_torch_that_is_registered():
    page = text_of("layers.md")
    for kind in registry._ENTRIES:
        if isinstance(kind, type) and kind.__module__.startswith("torch.nn"):
            name = {"RNNBase": "RNN", "RNNCellBase": "RNNCell"}.get(kind.__name__, kind.__name__)
            assert f"`{name}`" in page or f"`{name[-2:]}`" in page, name
