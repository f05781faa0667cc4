import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ortho_lightning import LSH, OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError
from ortho_lightning.layers.filters import filter_counts, layer_filters, trains
from ortho_lightning.layers.selection import select_layers
from tests.callbacks.helpers import boring, make_trainer


def test_parametrized_weights_are_effective_and_reading_them_changes_nothing():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    weight = layer_filters(layer)[0]
    torch.testing.assert_close(weight, layer.eval().weight)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    layer.parametrizations.weight.original0.data.fill_(2.0)
    torch.testing.assert_close(layer_filters(layer)[0].norm(dim=1), torch.full((4,), 2.0))


@pytest.mark.filterwarnings("ignore")
def test_older_weight_norm_is_effective():
    layer = nn.utils.weight_norm(nn.Linear(6, 4))
    layer.weight_g.data.fill_(3.0)
    layer(torch.randn(2, 6))
    torch.testing.assert_close(layer_filters(layer)[0].norm(dim=1), torch.full((4,), 3.0))
    assert trains(layer)


def test_trains_follows_the_weight_at_this_moment():
    layer = nn.Linear(3, 4)
    assert trains(layer)
    layer.weight.requires_grad_(False)
    assert not trains(layer)

    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(4, 1))
            self.b = nn.Parameter(torch.randn(1, 3))

        def forward(self, weight):
            return weight + self.a @ self.b

    adapted = nn.Linear(3, 4)
    nn.utils.parametrize.register_parametrization(adapted, "weight", LowRank())
    adapted.parametrizations.weight.original.requires_grad_(False)
    assert trains(adapted)


@pytest.mark.filterwarnings("ignore")
def test_quantization_aware_and_quantized_weights():
    qat = pytest.importorskip("torch.ao.nn.qat")
    quantization = pytest.importorskip("torch.ao.quantization")
    layer = qat.Linear(6, 4, qconfig=quantization.get_default_qat_qconfig("x86")).train()
    layer(torch.randn(3, 6))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    weight = layer_filters(layer)[0]
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    layer.weight_fake_quant.disable_observer()
    torch.testing.assert_close(weight, layer.weight_fake_quant(layer.weight))
    assert not torch.equal(weight, layer.weight)
    quantized = torch.ao.nn.quantized.dynamic.Linear(6, 4)
    assert layer_filters(quantized).shape == (1, 4, 6)
    assert layer_filters(quantized).dtype == torch.float32


def test_transposed_convolution_filters_collect_what_leads_to_a_channel():
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2)
    found = layer_filters(layer)
    assert found.shape == (2, 3, 8)
    # channel 1 of group 1 reads input channels 2 and 3
    assert torch.equal(found[1, 1], layer.weight[2:4, 1].flatten())


# ---------------------------------------------------------------------------------------------------------- selection


def make_model():
    model = nn.Module()
    model.conv1 = nn.Conv2d(3, 8, 3)
    model.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
    model.up = nn.ConvTranspose2d(8, 4, 2)
    model.attention = nn.MultiheadAttention(8, 2)
    model.score = nn.Linear(8, 1)
    model.head = nn.Linear(8, 10)
    return model


def test_default_is_every_layer_with_two_filters_a_group():
    assert list(select_layers(make_model())) == ["conv1", "layer1.2", "attention.out_proj", "head"]


def test_patterns_lists_predicates_and_exclusion():
    model = make_model()
    assert list(select_layers(model, "*conv*")) == ["conv1"]
    assert list(select_layers(model, ["conv1", "he?d"])) == ["conv1", "head"]
    assert list(select_layers(model, lambda n, m: isinstance(m, nn.Linear) and n == "head")) == ["head"]
    assert list(select_layers(model, None, exclude=["attention*", "conv1"])) == ["layer1.2", "head"]
    assert list(select_layers(model, "layer1.*", exclude="layer1.0")) == ["layer1.2"]


def test_a_pattern_without_a_layer_lists_the_layers_and_suggests():
    with pytest.raises(LayerSelectionError, match=r"layers='stem\*' selects no layer.*conv1, layer1\.2, .*head"):
        select_layers(make_model(), "stem*")
    outer = nn.Module()
    outer.net = make_model()
    with pytest.raises(LayerSelectionError, match=r"did you mean '\*\.layer1\.\*'"):
        select_layers(outer, "layer1.*")
    with pytest.raises(LayerSelectionError, match=r"did you mean 'layer1\.\*'"):
        select_layers(make_model(), "layer1")
    with pytest.raises(LayerSelectionError, match="no layer with two or more filters"):
        select_layers(nn.ReLU())


def test_what_cannot_be_compared_is_refused_by_name():
    model = make_model()
    with pytest.raises(UnsupportedLayerError, match=r"'layer1\.0'.*1 filter in each of 8 groups.*exclude='layer1\.0'"):
        select_layers(model, "layer1.*")
    with pytest.raises(UnsupportedLayerError, match=r"'score'.*1 filter"):
        select_layers(model, "score")
    with pytest.raises(UnsupportedLayerError, match=r"'attention:q'.*MultiheadAttention.*not seen.*weight-based"):
        select_layers(model, "attention", outputs=True)
    with pytest.raises(UnsupportedLayerError, match=r"'up'.*ConvTranspose2d.*weight-based"):
        select_layers(model, "up", outputs=True)
    assert list(select_layers(model, "up")) == ["up"]
    for bad in ([3], 7):
        with pytest.raises(ConfigurationError, match="layers="):
            select_layers(model, bad)
        with pytest.raises(ConfigurationError, match="exclude="):
            select_layers(model, None, bad)


def test_every_pattern_must_mean_something():
    model = make_model()
    with pytest.raises(LayerSelectionError, match="layers='haed' selects no layer"):
        select_layers(model, ["conv1", "haed"])
    with pytest.raises(LayerSelectionError, match="exclude='haed' selects no layer"):
        select_layers(model, None, "haed")
    with pytest.raises(LayerSelectionError, match=r"layers=None with exclude='\*' selects no layer"):
        select_layers(model, None, "*")
    assert list(select_layers(model, None, exclude=[])) == list(select_layers(model))


def test_a_submodule_called_weight_is_no_quantized_layer():
    gate = nn.Module()
    gate.weight = nn.Linear(4, 3)
    model = nn.ModuleDict({"gate": gate})
    assert list(select_layers(model, "gate*", outputs=True)) == ["gate.weight"]


def test_selecting_a_parametrized_layer_makes_no_power_iteration():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    select_layers(model, "0", outputs=True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_lazy_layers_are_selected_by_what_they_will_be():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyLinear(1))
    assert list(select_layers(model)) == ["0"]


def pruned(layer, keep):
    """The layer with fewer filters, as structured pruning leaves it: its attributes are those of before."""
    layer.weight = nn.Parameter(layer.weight.detach()[:keep].clone())
    layer.bias = None
    return layer


@pytest.mark.parametrize(
    ("layer", "counts"),
    [
        (pruned(nn.Linear(32, 8), 5), (1, 5)),
        (pruned(nn.Conv2d(3, 8, 3), 6), (1, 6)),
        (pruned(nn.Conv1d(4, 8, 3, groups=2), 6), (2, 3)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 3)),
        (nn.LazyLinear(7), (1, 7)),
        (nn.LazyConv2d(7, 3), (1, 7)),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (1, 3)),
        (prune.ln_structured(nn.Linear(4, 3), "weight", 1, n=2, dim=0), (1, 3)),
    ],
)
def test_filters_are_counted_by_the_weight(layer, counts):
    assert filter_counts(layer) == counts


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_a_layer_that_was_pruned_by_its_weight_trains_with_the_penalty_of_the_filters_left(package):
    model = boring(package).BoringModel()
    model.layer = pruned(nn.Linear(32, 8), 5)
    callback = OrthogonalityCallback(LSH(), weight=0.1, log_every_n_steps=1)
    make_trainer(callback, package, max_steps=2).fit(model)
    assert callback.penalty > 0
    assert callback.angle_report()[0]["k"] == 5


@pytest.mark.parametrize("option", ["layers", "exclude"])
def test_predicates_see_layers_only_and_their_errors_name_the_layer(option):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 1, groups=2), nn.BatchNorm2d(8))
    kept = {"layers": ["2"], "exclude": ["0"]}[option]
    assert list(select_layers(model, **{option: lambda name, layer: layer.groups > 1})) == kept
    seen = []
    select_layers(model, **{option: lambda name, layer: seen.append(layer) or name == "0"})
    assert seen == [model[0], model[2]]
    with pytest.raises(ConfigurationError, match=rf"{option}=.*AttributeError.*layer '0', a Conv2d") as caught:
        select_layers(model, **{option: lambda name, layer: layer.no_such_attribute})
    assert isinstance(caught.value.__cause__, AttributeError)
