"""A sample of the zoo, and its table."""

import pytest

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments import zoo

SAMPLE = (
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vit_b_32",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_the_penalty_reaches_every_layer_or_says_which_it_cannot(name):
    finding = zoo.examine(name)
    assert finding.passed, finding
    assert len(finding.penalized) >= 8
    # attention uses the weight of its output projection without calling the layer
    assert all("out_proj" in layer for layer in finding.named)
    assert len(finding.named) == (12 if name.startswith("vit") else 0)


def test_the_table_says_what_made_it_and_what_failed(tmp_path, monkeypatch):
    good = zoo.Finding("good", 64, ["a.1", "a.2"], ["a.1"], ["a.2"], 1.5, [], [])
    bad = zoo.Finding("bad", 64, ["a", "b"], ["a"], [], 1.5, ["a"], [])
    assert good.passed
    assert not bad.passed
    monkeypatch.setattr(zoo, "examine", {"good": good, "bad": bad}.__getitem__)
    zoo.main(["good", "bad", "--output", str(tmp_path / "zoo.md")])
    table = (tmp_path / "zoo.md").read_text()
    assert "Made by `python scripts/zoo.py good bad` with" in table
    assert "1 of 2 models pass" in table
    assert "| good | 64 | 2 | 1 | 1 of `a.*` |  | 1.5 | yes |" in table
    assert "| bad | 64 | 2 | 0 (not: a) |  |  | 1.5 | no |" in table


def test_unknown_models_are_named():
    with pytest.raises(ConfigurationError, match=r"model 'resnet19'.*resnet18"):
        zoo.examine("resnet19")
