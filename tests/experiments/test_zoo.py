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


@pytest.mark.parametrize("name", ["timm/test_convnext", "timm/test_vit", "timm/test_mambaout"])
def test_a_sample_of_timm(name):
    pytest.importorskip("timm")
    finding = zoo.examine(name)
    assert finding.passed, finding
    assert len(finding.penalized) >= 8


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba", "mixtral", "wav2vec2"])
def test_a_sample_of_transformers(name):
    pytest.importorskip("transformers")
    finding = zoo.examine(f"transformers/{name}")
    assert finding.passed, finding
    assert len(finding.penalized) >= 7
    assert all("dt_proj" in layer for layer in finding.named)  # Mamba uses its weight without calling it


def test_every_family_of_timm_and_ten_models_of_transformers_are_in_the_zoo():
    timm = pytest.importorskip("timm")
    pytest.importorskip("transformers")
    assert len(zoo.subjects("timm")) == sum(bool(timm.list_models(module=family)) for family in timm.list_modules())
    assert len(zoo.subjects("transformers")) == 10


def test_a_model_that_fails_is_a_finding_with_its_reason(tmp_path, monkeypatch):
    def fails(name):
        raise RuntimeError("no such | layer")

    monkeypatch.setattr(zoo, "examine", fails)
    zoo.main(["broken", "--output", str(tmp_path / "zoo.md")])
    table = (tmp_path / "zoo.md").read_text()
    assert "0 of 1 models pass" in table
    assert "no: RuntimeError: no such / layer |" in table


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


def test_a_run_that_is_stopped_leaves_what_it_found_and_says_so(tmp_path, monkeypatch):
    def stops(name):
        if name == "b":
            raise KeyboardInterrupt
        return zoo.Finding(name, 64, ["x"], ["x"], [], 1.5, [], [])

    monkeypatch.setattr(zoo, "examine", stops)
    with pytest.raises(KeyboardInterrupt):
        zoo.main(["a", "b", "c", "--output", str(tmp_path / "zoo.md")])
    assert "1 of 1 models pass" in (tmp_path / "zoo.md").read_text()
    assert "stopped before 2 more" in (tmp_path / "zoo.md").read_text()


def test_unknown_models_are_named():
    with pytest.raises(ConfigurationError, match=r"model 'resnet19'.*resnet18"):
        zoo.examine("resnet19")
    with pytest.raises(ConfigurationError, match=r"model 'keras/vgg'.*timm/ and transformers/"):
        zoo.examine("keras/vgg")
