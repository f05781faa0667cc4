"""Modules of several kernels: what their filters are, how a part is selected, and kernels of a user's own."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ortho_lightning import layers
from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError
from ortho_lightning.layers import registry
from ortho_lightning.layers.filters import weight_parameters


@pytest.fixture
def own_entries(monkeypatch):
    """Registrations that end with the test."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def filters_of(module):
    return {key: layers.layer_filters(part) for key, part in layers.parts_of(module).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=0)


# -------------------------------------------------------------------------------------------------------- torch's own


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 5}])
def test_attention_has_its_four_projections_and_its_heads(options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, **options)
    q, k, v = (
        module.in_proj_weight.chunk(3)
        if not options
        else (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    )
    out = module.out_proj.weight
    expected = {name: weight.unsqueeze(0) for name, weight in zip("qkv", (q, k, v), strict=True)}
    expected["out"] = out.unsqueeze(0)
    expected |= {f"heads.{name}": weight.unflatten(0, (2, 4)) for name, weight in zip("qkv", (q, k, v), strict=True)}
    expected["heads.out"] = torch.stack([out[:, :4].T, out[:, 4:].T])
    assert_same(filters_of(module), expected)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, "ifgo"), (nn.GRU, "rzn")])
def test_recurrent_nets_have_a_kernel_for_each_gate(kind, gates):
    options = {"proj_size": 2} if kind is nn.LSTM else {}
    module = kind(4, 3, num_layers=2, bidirectional=True, **options)
    expected = {}
    for place in ("l0", "l0_reverse", "l1", "l1_reverse"):
        for side in ("ih", "hh"):
            weight = getattr(module, f"weight_{side}_{place}")
            for i, gate in enumerate(gates):
                expected[f"{side}_{place}.{gate}"] = weight[3 * i : 3 * i + 3].unsqueeze(0)
        if options:
            expected[f"hr_{place}"] = getattr(module, f"weight_hr_{place}").unsqueeze(0)
    assert_same(filters_of(module), expected)


def test_nets_without_gates_and_cells():
    module = nn.RNN(4, 3)
    assert_same(filters_of(module), {"ih_l0": module.weight_ih_l0[None], "hh_l0": module.weight_hh_l0[None]})
    cell = nn.RNNCell(4, 3)
    assert_same(filters_of(cell), {"ih": cell.weight_ih[None], "hh": cell.weight_hh[None]})
    assert list(filters_of(nn.GRUCell(4, 3))) == ["ih.r", "ih.z", "ih.n", "hh.r", "hh.z", "hh.n"]
    cell = nn.LSTMCell(4, 3)
    torch.testing.assert_close(filters_of(cell)["hh.g"], cell.weight_hh[None, 6:9])


def test_embeddings_bilinear_maps_and_columns():
    table = nn.Embedding(7, 3)
    assert_same(filters_of(table), {"": table.weight[None]})
    bag = nn.EmbeddingBag(7, 3)
    assert_same(filters_of(bag), {"": bag.weight[None]})
    bilinear = nn.Bilinear(2, 3, 4)
    assert_same(filters_of(bilinear), {"": bilinear.weight.flatten(1)[None]})
    linear = nn.Linear(3, 5)
    assert_same(filters_of(linear), {"": linear.weight[None], "columns": linear.weight.T[None]})


def test_transformers_conv1d_is_a_linear_layer_with_its_weight_transposed():
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    module = pytorch_utils.Conv1D(5, 3)
    nn.init.normal_(module.bias)
    assert_same(filters_of(module), {"": module.weight.T[None], "columns": module.weight[None]})
    assert list(layers.select_parts(nn.Sequential(module))) == ["0"]
    part = layers.part_of(module)
    x = torch.randn(2, 7, 3)
    expected = (x @ module.weight).flatten(0, 1)[None]
    rows = layers.sampling.sample_outputs(part, module(x), None, seed=0)
    torch.testing.assert_close(layers.sampling.as_samples(part, rows), expected)
    again = layers.sampling.outputs_from_inputs(part, layers.sampling.sample_inputs(part, x, module(x), None, 0))
    torch.testing.assert_close(layers.sampling.as_samples(part, again, biased=False), expected)


@pytest.mark.filterwarnings("ignore")
def test_quantized_layers_of_both_orientations():
    quantized = pytest.importorskip("torch.ao.nn.quantized")
    linear = quantized.Linear(6, 4)
    assert_same(filters_of(linear), {"": linear.weight().dequantize()[None]})
    up = quantized.ConvTranspose2d(4, 6, 2, groups=2)
    whole = nn.ConvTranspose2d(4, 6, 2, groups=2)
    whole.weight = nn.Parameter(up.weight().dequantize())
    assert_same(filters_of(up), filters_of(whole))
    assert list(layers.select_parts(nn.Sequential(linear, up), "*")) == ["0", "1"]
    with pytest.raises(UnsupportedLayerError, match=r"'0'.*quantized"):
        layers.select_parts(nn.Sequential(linear), "0", outputs=True)


# ---------------------------------------------------------------------------------------------------------- selection


def transformer():
    model = nn.Module()
    model.words = nn.Embedding(9, 8)
    model.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    model.rnn = nn.LSTM(8, 6)
    model.head = nn.Linear(8, 4)
    return model


def test_a_part_is_selected_by_pattern():
    model = transformer()
    assert list(layers.select_parts(model, "encoder.*.self_attn:q")) == [
        "encoder.layers.0.self_attn:q",
        "encoder.layers.1.self_attn:q",
    ]
    both = layers.select_parts(model, ["*.0.self_attn:v", "*.0.self_attn:[qk]"])
    assert [name[-1] for name in both] == ["q", "k", "v"]  # in the order of the module
    assert list(layers.select_parts(model, "rnn:hh_*")) == [f"rnn:hh_l0.{gate}" for gate in "ifgo"]
    assert list(layers.select_parts(model, "rnn:*.f")) == ["rnn:ih_l0.f", "rnn:hh_l0.f"]
    assert list(layers.select_parts(model, ["words", "head"])) == ["words", "head"]


def test_a_part_without_a_module_means_that_of_any_module():
    model = nn.ModuleDict(
        {"one": nn.MultiheadAttention(8, 2), "more": nn.ModuleList([nn.MultiheadAttention(8, 2), nn.GRU(8, 4)])}
    )
    assert list(layers.select_parts(model, ":q")) == ["one:q", "more.0:q"]
    assert list(layers.select_parts(model, ":heads.[qk]")) == [
        "one:heads.q", "one:heads.k", "more.0:heads.q", "more.0:heads.k",
    ]  # fmt: skip
    assert list(layers.select_parts(model, ":*")) == list(layers.select_parts(model, ["one", "more.*:*"]))
    assert list(layers.select_parts(nn.MultiheadAttention(8, 2), ":q")) == [":q"]


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 5))


def test_a_pattern_that_matches_no_part_says_what_its_module_has(own_entries):
    model = nn.ModuleDict({"towers": Towers(), "block": nn.Sequential(nn.Linear(3, 4), nn.ReLU())})
    with pytest.raises(LayerSelectionError, match=r"'towers' holds parameters, but its class Towers.*layers\.register"):
        layers.select_parts(model, "towers")
    with pytest.raises(
        LayerSelectionError,
        match=r"'block'.*no filters of their own.*without sampling reads filters only.*sampling = Sampling\(\)",
    ):
        layers.select_parts(model, "block")
    layers.register(Towers)(
        lambda module: {"user": layers.Kernel("user"), "item": layers.Kernel("item", layers.Columns())}
    )
    with pytest.raises(LayerSelectionError, match="Module 'towers' matched; its parts are user, item"):
        layers.select_parts(model, "towers:users")
    with pytest.raises(LayerSelectionError, match=r"are: block\.0\. Layers that a pattern must name are: towers:"):
        layers.select_parts(model, "tower")
    with pytest.raises(LayerSelectionError, match="must name are: :user, :item") as raised:
        layers.select_parts(Towers())
    assert "has no layer" not in str(raised.value)


def test_a_module_without_a_part_means_all_of_them_and_what_is_on_request_must_be_named():
    model = transformer()
    ordinary = [f"encoder.layers.0.self_attn:{part}" for part in ("q", "k", "v", "out")]
    assert list(layers.select_parts(model, "*.0.self_attn")) == ordinary
    assert list(layers.select_parts(model, "*.0.self_attn:*")) == ordinary
    assert list(layers.select_parts(model, "*.0.self_attn:heads.*")) == [
        f"encoder.layers.0.self_attn:heads.{part}" for part in ("q", "k", "v", "out")
    ]
    assert list(layers.select_parts(model, "head:columns")) == ["head:columns"]
    assert list(layers.select_parts(model, "head*")) == ["head"]


def test_a_weight_is_not_selected_twice():
    model = transformer()
    names = list(layers.select_parts(model, "*.0.self_attn*"))
    assert names == [f"encoder.layers.0.self_attn:{part}" for part in ("q", "k", "v", "out")]  # without out_proj


def test_the_default_is_as_it_was():
    names = list(layers.select_parts(transformer()))
    assert [name for name in names if ":" in name] == []
    assert names[:3] == ["encoder.layers.0.self_attn.out_proj", "encoder.layers.0.linear1", "encoder.layers.0.linear2"]
    assert names[-1] == "head"


def test_parts_are_excluded_by_their_own_names_or_their_modules():
    model = transformer()
    chosen = layers.select_parts(model, "*.self_attn", exclude=["*.0.self_attn", "*:out"])
    assert [name[-1] for name in chosen] == ["q", "k", "v"]
    by_predicate = layers.select_parts(model, lambda name, module: isinstance(module, nn.LSTM), exclude="rnn:ih*")
    assert list(by_predicate) == [f"rnn:hh_l0.{gate}" for gate in "ifgo"]
    with pytest.raises(LayerSelectionError, match="'rnn:hx_\\*'"):
        layers.select_parts(model, "rnn:hx_*")


def test_what_has_no_outputs_says_why_and_the_output_projection_has_them():
    model = transformer()
    for name, reason in (("*.0.self_attn:q", "not seen"), ("rnn:hh_l0.f", "recurrence"), ("words", "looked up")):
        with pytest.raises(UnsupportedLayerError, match=f"{reason}.*weight-based.*exclude="):
            layers.select_parts(model, name, outputs=True)
    assert list(layers.select_parts(model, "*.0.self_attn:out", outputs=True)) == ["encoder.layers.0.self_attn:out"]


def test_parts_are_copied_and_pickled_with_their_modules():
    model = transformer()
    part = layers.select_parts(model, "rnn:hh_l0.f")["rnn:hh_l0.f"]
    for twin in (pickle.loads(pickle.dumps(part)), copy.deepcopy(part)):
        assert twin.module is not part.module
        torch.testing.assert_close(layers.layer_filters(twin), layers.layer_filters(part))


# ------------------------------------------------------------------------------------------------ kernels of one's own


class FusedProjection(nn.Module):
    """A projection whose weight holds query and value one above the other, and a low-rank one."""

    def __init__(self):
        super().__init__()
        self.query_value = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(6))
        self.up, self.down = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        return {"joined": nn.functional.linear(x, self.query_value, self.bias), "low": x @ (self.up @ self.down).T}


class Inheriting(FusedProjection):
    pass


def kernels(module):
    value = layers.Outputs(element="joined", bias="bias", channels=slice(3, 6), linear=True)
    return {
        "query": layers.Kernel("query_value", layers.Rows(block=(0, 2))),
        "value": layers.Kernel("query_value", layers.Rows(block=(1, 2)), value),
        "low": layers.Kernel(("up", "down"), lambda up, down: (up @ down)[None], layers.Outputs(element="low")),
    }


def test_a_users_own_kernels_and_outputs(own_entries):
    layers.register(FusedProjection)(kernels)
    module = Inheriting()
    found = filters_of(module)
    assert_same(
        found,
        {
            "query": module.query_value[None, :3],
            "value": module.query_value[None, 3:],
            "low": (module.up @ module.down)[None],
        },
    )
    x = torch.randn(7, 4)
    for key in ("value", "low"):
        part = layers.parts_of(module)[key]
        assert layers.filter_counts(part) == tuple(found[key].shape[:2])
        own = layers.sampling.element_of(part, module(x))
        samples = layers.sampling.as_samples(part, layers.sampling.sample_outputs(part, own, None, seed=0))
        torch.testing.assert_close(samples, x @ found[key].mT)
    assert {id(each) for each in weight_parameters(layers.parts_of(module)["low"])} == {id(module.up), id(module.down)}


def test_the_nearest_class_counts_and_a_name_stands_for_a_class(own_entries):
    layers.register(FusedProjection)(kernels)
    layers.register(f"{__name__}.Inheriting", default=True)(lambda module: layers.Kernel("down"))
    model = nn.ModuleDict({"base": FusedProjection(), "own": Inheriting()})
    assert list(layers.select_parts(model)) == ["own"]
    assert list(layers.select_parts(model, "*")) == ["base:query", "base:value", "base:low", "own"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda module: module.nothing, "registered for FusedProjection raised AttributeError"),
        (lambda module: [module.up], "registered for FusedProjection returned"),
        (lambda module: {"up": module.up}, "registered for FusedProjection returned"),
        (
            lambda module: layers.Kernel("up", lambda up: up),
            r"FusedProjection: Kernel\.filters gave \(5, 2\).*\(groups, k, d\)",
        ),
        (
            lambda module: {"low": layers.Kernel(("up", "down"), lambda up, down: (down @ up)[None])},
            r"FusedProjection \(part 'low'\): Kernel\.filters raised RuntimeError.*\(5, 2\), \(2, 4\)",
        ),
        (
            lambda module: {"a": layers.Kernel("upp")},
            r"FusedProjection \(part 'a'\).* 'upp', which the module does not",
        ),
        (lambda module: {"a": layers.Kernel("up.weight")}, r"FusedProjection \(part 'a'\).* names 'up\.weight'"),
        (lambda module: {"a": layers.Kernel(module.up)}, "FusedProjection, part 'a': .* not a Parameter"),
        (lambda module: layers.Kernel(module.up), "FusedProjection: .*name of an attribute"),
        (lambda module: {"a": layers.Kernel("up", layers.Rows)}, r"FusedProjection, part 'a': .*write Rows\(\)"),
        (
            lambda module: {"a": layers.Kernel("up", outputs=layers.Outputs(bias="shift"))},
            r"FusedProjection \(part 'a'\).* names 'shift'",
        ),
        (
            lambda module: {"a": layers.Kernel("query_value", layers.Rows(block=(0, 4)))},
            r"FusedProjection \(part 'a'\): Rows\(groups=1, block=\(0, 4\)\): block divides an axis of 6 into 4",
        ),
    ],
)
def test_registrations_that_cannot_work_are_named(own_entries, function, message):
    layers.register(FusedProjection)(function)
    with pytest.raises(ConfigurationError, match=message):
        layers.select_parts(FusedProjection(), "", outputs="allowed")


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (layers.Rows(block=(0, 3)), "block divides an axis of 8 into 3"),
        (layers.Rows(block=(2, 2)), "from 0 to n - 1"),
        (layers.Rows(groups=3), "groups divides an axis of 8 into 3"),
        (layers.Columns(block=(0, 4)), "block divides an axis of 6 into 4"),
        (layers.Columns(groups=3), "groups divides an axis of 8 into 3"),
        (layers.Columns(heads=4), "heads divides an axis of 6 into 4"),
    ],
)
def test_no_filter_is_dropped_where_a_weight_cannot_be_divided(filters, message):
    with pytest.raises(ConfigurationError, match=message):
        filters(torch.zeros(8, 6))


@pytest.mark.parametrize("kind", [int, "Linear", 3])
def test_only_classes_of_modules_and_dotted_names_are_registered(kind):
    with pytest.raises(ConfigurationError, match="register"):
        layers.register(kind)


def test_a_module_with_several_kernels_is_not_one_layer():
    with pytest.raises(ConfigurationError, match=r"MultiheadAttention has several.*'q'"):
        layers.layer_filters(nn.MultiheadAttention(4, 2))
    with pytest.raises(ConfigurationError, match=r"ReLU holds no filters.*register"):
        layers.layer_filters(nn.ReLU())
