"""Recipes for adapters, routers and heads, on the real peft and transformers: tiny models, no download."""

import copy
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from packaging.version import Version
from torch import nn

from ortho_lightning import OrthogonalityCallback, layers
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError, LayerSelectionError
from ortho_lightning.regularizers import Anchored, Diversity, LayerView, Orthonormal
from tests.callbacks.helpers import boring, make_trainer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

RECIPES = Path(__file__).parents[1] / "conf" / "recipe"
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


def recipe(name, **changes):
    """The callback of a recipe, without a monitor."""
    return hydra.utils.instantiate(OmegaConf.load(RECIPES / f"{name}.yaml"), monitor=None, **changes)


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def lora(**options):
    return peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)


def trained(model, *callbacks, **options):
    class Mine(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = None
            self.model = model
            self.gradients = {}

        def training_step(self, batch, batch_idx):
            logits = self.model(input_ids=TOKENS).logits
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())

        def on_after_backward(self):
            self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)

    module = Mine()
    trainer = make_trainer(callbacks, **options)
    trainer.fit(module, [torch.zeros(1)])
    return module, trainer.callback_metrics


def scattered(model, *words):
    """Give adapters other values than zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in words):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_adalora_is_pefts_own_value_and_gradient():
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = scattered(peft.get_peft_model(llama(), config), "lora_")
    reference = copy.deepcopy(model)
    task_alone = copy.deepcopy(model)
    none = 0.0 if Version(peft.__version__) >= Version("0.20") else 1e-9  # earlier ones reject 0
    for each, weight in ((model, none), (reference, 0.5), (task_alone, none)):
        each.peft_config["default"].orth_reg_weight = weight
    with_it = reference(input_ids=TOKENS, labels=TOKENS).loss
    expected = with_it - task_alone(input_ids=TOKENS, labels=TOKENS).loss
    callback = recipe("adalora")
    module, logged = trained(model, callback)
    assert len([name for name in logged if "penalty/" in name]) == 2 * 2 * 2
    torch.testing.assert_close(0.5 * logged["adalora/penalty"], expected.detach(), rtol=1e-4, atol=1e-5)
    with_it.backward()
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(module.gradients[f"model.{name}"], parameter.grad, rtol=1e-3, atol=1e-5)


def test_kasa_is_pefts_own_value():
    kasa = getattr(pytest.importorskip("peft.tuners.lora.config"), "KasaConfig", None)
    if kasa is None:
        pytest.skip("KaSA came with peft 0.21")
    model = scattered(peft.get_peft_model(llama(), lora(kasa_config=kasa(beta=0.0, gamma=1e-3))), "lora_")
    expected = model.base_model._get_kasa_loss().detach()
    _, logged = trained(model, recipe("kasa"))
    torch.testing.assert_close(1e-3 * logged["kasa/penalty"], expected)


def two_adapters():
    model = peft.get_peft_model(llama(), lora(), adapter_name="old")
    model.add_adapter("new", lora())
    scattered(model, "lora_")
    model.base_model.set_adapter(["old", "new"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".new." in name)
    return model


def test_o_lora_moves_the_new_adapter_away_from_the_frozen_one():
    model = two_adapters()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    expected = 0
    for part in model.modules():
        if hasattr(part, "lora_A") and "old" in part.lora_A:
            expected += (part.lora_A["new"].weight @ part.lora_A["old"].weight.T).abs().sum()
    _, logged = trained(model, recipe("olora"), max_steps=1)
    torch.testing.assert_close(logged["olora/penalty"], expected.detach())
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if ".old." in name)
    later = copy.deepcopy(model)
    _, logged_later = trained(later, recipe("olora"), max_steps=5)
    assert logged_later["olora/penalty"] < logged["olora/penalty"]


def test_an_anchor_may_be_several_parts_or_tensors_and_a_missing_one_is_named():
    model = two_adapters()
    module = next(part for part in model.modules() if hasattr(part, "lora_A") and "old" in part.lora_A)
    part = layers.parts_of(module)["A.new"]
    view = LayerView(layers.layer_filters(part), name="q_proj:A.new", module=module)
    old, new = module.lora_A["old"].weight, module.lora_A["new"].weight
    expected = (new @ old.T).abs().sum()
    torch.testing.assert_close(Anchored("A.*").penalty(view), expected)  # not the layer itself
    torch.testing.assert_close(Anchored({"q_proj:A.new": old[None]}).penalty(view), expected)
    with pytest.raises(ConfigurationError, match=r"anchor='A\.first'.*'A\.old', 'B\.old'"):
        Anchored("A.first").penalty(view)
    with pytest.raises(ConfigurationError, match=r"'q_proj:A\.new' has no anchor.*'other'"):
        Anchored({"other": old}).penalty(view)
    with pytest.raises(ConfigurationError, match="anchor=3"):
        Anchored(3)


def test_adapters_are_found_as_layers_and_as_parts_but_not_twice():
    model = peft.get_peft_model(llama(), lora())
    default = [name for name in layers.select_parts(model) if ".lora_" in name]
    assert len(default) == 8
    assert not any(":" in name for name in layers.select_parts(model, "*"))
    parts = layers.select_parts(model, ["*:A.default", "*.lora_A.default"])
    assert len(parts) == 4
    assert all(name.endswith(":A.default") for name in parts)
    with pytest.raises(
        LayerSelectionError, match=r"q_proj' matched; its parts are A\.default, B\.default, each selected"
    ):
        layers.select_parts(model, "*.q_proj")
    assert [name.rpartition(".")[2] for name in layers.select_parts(model, "*.q_proj.base_layer")] == ["base_layer"] * 2
    module = next(part for part in model.modules() if hasattr(part, "lora_A"))
    columns = layers.parts_of(module)["B.default"]
    torch.testing.assert_close(layers.layer_filters(columns)[0], module.lora_B["default"].weight.T)


def mixtral():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=6, num_experts_per_tok=2,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


def test_experts_of_a_router_are_pushed_apart():
    model = mixtral()
    routers = [part.weight for name, part in model.named_modules() if name.endswith(".gate")]
    assert len(routers) == 2
    expected = 0
    for weight in routers:
        cosines = OF.pairwise_cosines(weight.detach())
        expected += cosines[~torch.eye(6, dtype=torch.bool)].square().mean()
    _, logged = trained(model, recipe("router", weight=10.0), max_steps=20)
    later = logged["router/penalty"]
    _, logged = trained(mixtral(), recipe("router"))
    torch.testing.assert_close(logged["router/penalty"], expected)
    assert later < 0.5 * expected


def mixtral_of_one_module():
    model = mixtral()
    if not hasattr(model.model.layers[0], "mlp"):
        pytest.skip("each expert is a module of its own before transformers 5, and the router a Linear")
    return model


def test_experts_are_groups():
    model = mixtral_of_one_module()
    found = layers.select_parts(model, "model.layers.0.mlp.experts")
    assert {name.rpartition(":")[2]: layers.filter_counts(part) for name, part in found.items()} == {
        "gate_up": (6, 48), "down": (6, 16),
    }  # fmt: skip


def test_logits_of_a_router_are_its_outputs():
    model = mixtral_of_one_module()
    module = model.model.layers[0].mlp.gate
    part = layers.part_of(module)
    x = torch.randn(7, 16)
    own = layers.sampling.element_of(part, module(x))
    torch.testing.assert_close(layers.sampling.as_samples(part, own)[0], x @ module.weight.T)


@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
def test_heads_of_separate_projections_are_compared(projection):
    model = llama()
    heads = {"q_proj": 4, "k_proj": 2}[projection]
    weights = [part.weight for name, part in model.named_modules() if name.endswith(projection)]
    expected = sum(OF.group_similarity(weight.unflatten(0, (heads, 4))) for weight in weights)
    callback = OrthogonalityCallback(Diversity(groups=heads), layers=f"*.{projection}", monitor=None)
    _, logged = trained(model, callback)
    torch.testing.assert_close(logged["ortho/penalty"], expected.detach())
    with pytest.raises(ConfigurationError, match=r"groups=3.*16 filters|groups=3.*8 filters"):
        trained(model, OrthogonalityCallback(Diversity(groups=3), layers=f"*.{projection}", monitor=None))


def test_heads_of_torchs_attention_are_compared():
    callback = recipe("heads")
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = layers.select_parts(nn.ModuleDict({"block": model}), callback.layers)
    assert list(found) == ["block.self_attn:heads.q", "block.self_attn:heads.k"]
    filters = layers.layer_filters(found["block.self_attn:heads.q"])
    expected = OF.group_similarity(model.self_attn.in_proj_weight[:8].unflatten(0, (2, 4)))
    torch.testing.assert_close(callback.regularizer.penalty(LayerView(filters)), expected)


def test_heads_of_fused_projections_are_parts():
    timm = pytest.importorskip("timm.layers.attention")
    attention = timm.Attention(8, num_heads=2)
    found = {key: layers.layer_filters(part) for key, part in layers.parts_of(attention).items()}
    q, k, v = attention.qkv.weight.chunk(3)
    torch.testing.assert_close(found["k"][0], k)
    torch.testing.assert_close(found["heads.v"], v.unflatten(0, (2, 4)))
    assert "attention" in layers.select_parts(nn.ModuleDict({"attention": nn.Linear(2, 2)}), "*")
    assert list(layers.select_parts(nn.ModuleDict({"a": attention}), "*")) == ["a.qkv", "a.proj"]
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=11, n_positions=8)
    attention = transformers.GPT2Model(config).h[0].attn
    found = {key: layers.layer_filters(part) for key, part in layers.parts_of(attention).items()}
    q, k, v = attention.c_attn.weight.T.chunk(3)
    torch.testing.assert_close(found["q"][0], q)
    torch.testing.assert_close(found["heads.k"], k.unflatten(0, (2, 4)))


def test_regularizers_show_their_options_and_reject_bad_ones():
    assert repr(Orthonormal()) == "Orthonormal(reduction='sum')"
    assert repr(Anchored("A.old")) == "Anchored('A.old', norm='l1')"
    assert repr(Anchored({"a": torch.ones(1)}, "fro")) == "Anchored(<1 tensors>, norm='fro')"
    assert repr(Diversity(4)) == "Diversity(groups=4)"
    for make, message in (
        (lambda: Orthonormal("max"), "reduction='max'"),
        (lambda: Anchored("A.old", "l2"), "norm='l2'"),
        (lambda: Diversity(1), "groups=1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make()
