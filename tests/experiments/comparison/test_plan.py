"""The overrides that a run of a comparison gets."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ortho_lightning import GradientShare, OrthogonalConstraint
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.experiments.comparison.available import expand_arms, known_arms, missing_requirements
from ortho_lightning.experiments.comparison.plan import check_share, for_one_arm, plan, tuned_settings
from ortho_lightning.layers.selection import select_layers


def planned(*overrides, tuned=None):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("compare", ["experiment=shapes", *overrides])
        if tuned is not None:
            OmegaConf.update(config, "tuned", {"arms": tuned}, force_add=True)
        return plan(config, ["experiment=shapes", *overrides], Path("x"))


def test_seeds_are_outermost_and_each_run_stands_once():
    runs = planned("seeds=[3,1,3]", "regularizers=[none,lsh,none]")
    assert [(run.seed, run.arm) for run in runs] == [(3, "none"), (3, "lsh"), (1, "none"), (1, "lsh")]
    assert len({run.folder for run in runs}) == 4


def test_runs_get_what_is_not_the_comparisons_own():
    (run,) = planned("seeds=[0]", "regularizers=[gram]", "jobs=2", "trainer.max_epochs=3", "costs=0", "target=0.5")
    assert run.overrides == ["experiment=shapes", "trainer.max_epochs=3", "regularizer=gram", "seed=0"]


def test_an_arm_gets_its_tuned_settings_unless_the_command_line_says_otherwise():
    tuned = {"none": ["model.optimizer.weight_decay=0.001"], "lsh": ["regularizer.weight=0.3"]}
    none, lsh = planned("regularizers=[none,lsh]", "seeds=[0]", tuned=tuned)
    assert "model.optimizer.weight_decay=0.001" in none.overrides
    assert "regularizer.weight=0.3" in lsh.overrides
    assert "model.optimizer.weight_decay=0.001" not in lsh.overrides
    given = ("regularizers=[lsh]", "seeds=[0]", "regularizer.weight=0.5")
    (lsh,) = planned(*given, tuned=tuned)
    assert "regularizer.weight=0.5" in lsh.overrides
    assert "regularizer.weight=0.3" not in lsh.overrides


def test_settings_of_one_arm_go_before_all_others():
    tuned = {"lsh": ["regularizer.weight.share=0.3", "model.optimizer.weight_decay=0.001"]}
    given = ("regularizers=[none,lsh]", "seeds=[0]", "model.optimizer.lr=0.2")
    own = ["model.optimizer.lr=0.1", "regularizer.weight.share=0.5", "regularizer.penalty.gamma=20"]
    none, lsh = planned(*given, f"+arms.lsh={own}", tuned=tuned)
    assert none.overrides == ["experiment=shapes", "model.optimizer.lr=0.2", "regularizer=none", "seed=0"]
    assert none.settings == []
    assert lsh.settings == ["model.optimizer.weight_decay=0.001", *own]
    assert lsh.overrides == ["experiment=shapes", *lsh.settings, "regularizer=lsh", "seed=0"]


@pytest.mark.parametrize("arms", ["~arms", "arms=null"])
def test_no_settings_of_one_arm(arms):
    (lsh,) = planned("regularizers=[lsh]", "seeds=[0]", arms)
    assert lsh.settings == []


def test_a_reference_to_the_seed_is_that_of_each_run():
    first, second = planned("regularizers=[lsh]", "seeds=[3,4]", "+arms.lsh=['pretrained=none-seed${seed}.ckpt']")
    assert first.settings == second.settings == ["pretrained=none-seed${seed}.ckpt"]


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ("regularizer.weight=3", "regularizer.weight.share=0.5", ["regularizer.weight.share=0.5"]),
        ("regularizer.weight.share=0.5", "regularizer.weight=3", ["regularizer.weight=3"]),
        (
            "regularizer.weight.every_n_steps=9",
            "regularizer.weight.share=0.5",
            ["regularizer.weight.every_n_steps=9", "regularizer.weight.share=0.5"],
        ),
    ],
)
def test_the_weight_and_a_part_of_it_replace_each_other(before, after, left):
    (lsh,) = planned("regularizers=[lsh]", "seeds=[0]", f"+arms.lsh=[{after!r}]", tuned={"lsh": [before]})
    assert lsh.settings == left


def test_a_weight_on_the_command_line_replaces_a_tuned_share():
    tuned = {"lsh": ["regularizer.weight.share=0.5"]}
    (lsh,) = planned("regularizers=[lsh]", "seeds=[0]", "regularizer.weight=3", tuned=tuned)
    assert [text for text in lsh.overrides if "weight" in text] == ["regularizer.weight=3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("arms=3", "arms=3: must be a list of settings for each arm"),
        ("+arms.lsh=3", r"arms\.lsh=3: must be a list of KEY=VALUE, as in"),
        ("+arms.lsh=[3]", r"arms\.lsh=\[3\]: must be a list"),
        ("+arms.lsh=[share]", r"arms\.lsh=\['share'\]: must be a list"),
        ("+arms.lsh=['seed=3']", "seed is the same for all arms"),
        ("+arms.lsh=['regularizer=gram']", "regularizer is the same for all arms"),
        ("+arms.lsh=['data.batch_size=8']", r"data\.batch_size is the same for all arms"),
        ("+arms.lsh=['model=resnet18']", "model is the same for all arms"),
        ("+arms.lsh=['run_dir=x']", "run_dir is the same for all arms"),
        ("+arms.lsh=['~regularizer.schedule']", "must be a list of KEY=VALUE"),
    ],
)
def test_settings_of_one_arm_that_cannot_be_are_named(given, message):
    with pytest.raises(ConfigurationError, match=message):
        planned("regularizers=[none,lsh]", given)


def test_settings_hold_for_the_model_that_they_were_chosen_with():
    settings = {"lsh": ["regularizer.weight=0.3"]}
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("compare", ["experiment=shapes"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        for model, expected in (("pointnet", settings), ("resnet18", {})):
            OmegaConf.update(config, "tuned", {"model": model, "arms": settings}, force_add=True)
            assert tuned_settings(config) == expected
    finally:
        HydraConfig.instance().cfg = None


def test_every_shipped_choice_composes():
    for path in Path(conf_dir(), "tuned").glob("*.yaml"):
        for arm, settings in OmegaConf.load(path).arms.items():
            with initialize_config_dir(conf_dir(), version_base="1.3"):
                compose("train", [f"experiment={path.stem}" if path.stem != "none" else "experiment=shapes",
                                  f"regularizer={arm}", *settings])  # fmt: skip


def test_a_key_that_no_compared_arm_has_is_explained_by_the_arms_that_have_it():
    assert "'+arms.lsh=[\"regularizer.penalty.gamma=VALUE\"]'" in for_one_arm("regularizer.penalty.gamma")
    assert "'+arms.geotorch=[\"regularizer.constraint.radius=VALUE\"]'" in for_one_arm("regularizer.constraint.radius")
    assert for_one_arm("regularizer.penalty.nosuch") == "No arm has this key"
    assert for_one_arm("trainer.nosuch") is None


def test_unknown_arms_are_named():
    with pytest.raises(ConfigurationError, match=r"regularizers=\['orthogonal'\]: there are \[.*'gram'"):
        planned("regularizers=[none,orthogonal]")


def test_all_stands_for_every_arm_that_is_installed():
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("compare", ["experiment=shapes", "regularizers=all"])
        listed = compose("compare", ["experiment=shapes", "regularizers=[lsh,none]"])
    assert expand_arms(listed) == {}
    assert list(listed.regularizers) == ["lsh", "none"]
    missing = expand_arms(config)
    files = {path.stem for path in Path(conf_dir(), "regularizer").glob("*.yaml")}
    assert set(config.regularizers) | set(missing) == files
    assert not set(config.regularizers) & set(missing)
    assert list(config.regularizers) == ["none", *sorted(set(config.regularizers) - {"none"})]
    assert {"hard", "gram", "lsh"} <= set(config.regularizers)
    assert ("muon" in missing) != hasattr(torch.optim, "Muon")
    assert ("geotorch" in missing) == (importlib.util.find_spec("geotorch") is None)


def test_an_arm_that_needs_more_is_left_out_with_what_it_needs(monkeypatch, tmp_path):
    (tmp_path / "regularizer").mkdir()
    for name, requires in (("none", None), ("a", ["torch>=1", "no-such-package"]), ("b", ["torch>=1"])):
        OmegaConf.save({"requires": requires, "penalty": None}, tmp_path / "regularizer" / f"{name}.yaml")
    monkeypatch.setattr("ortho_lightning.experiments.comparison.available.conf_dir", lambda: str(tmp_path))
    assert known_arms() == ["none", "a", "b"]
    assert missing_requirements() == {"a": "no-such-package"}


def test_a_share_is_the_weight_of_every_penalty_and_of_nothing_else():
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        given = ["experiment=shapes", "seeds=[0]", "regularizers=[none,gram,lsh,hard,muon]", "share=0.2"]
        config = compose("compare", given)
        OmegaConf.update(config, "tuned", {"arms": {"lsh": ["regularizer.weight.share=0.7", "model.warmup=0.2"]}},
                         force_add=True)  # fmt: skip
        check_share(config, given)
        runs = {run.arm: run for run in plan(config, given, Path("x"))}
        weights = {arm: run.config().callbacks.orthogonality.weight for arm, run in runs.items()}
    for arm in ("gram", "lsh"):
        assert instantiate(weights[arm]) == GradientShare(0.2)
    assert [weights[arm] for arm in ("none", "hard", "muon")] == [0.0, 0.0, 0.0]
    assert runs["lsh"].settings == ["model.warmup=0.2"]
    assert "share=0.2" not in runs["gram"].overrides


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["share=0"], "share=0: must be a positive number"),
        (["share=much"], "share='much'"),
        (["share=0.1", "regularizer.weight=3"], r"so does regularizer\.weight=3: one or the other"),
        (["share=0.1", "regularizer.weight.share=3"], r"so does regularizer\.weight\.share=3"),
        (["share=0.1", "+arms.lsh=['regularizer.weight=3']"], r"so does regularizer\.weight=3"),
        (["share=0.1", "+arms.lsh=['regularizer.schedule=null']"], r"no regularizer\.schedule=null"),
        (["share=0.1", "tune=true"], "so does tune=true"),
    ],
)
def test_shares_that_cannot_be_are_named(overrides, message):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        own = [text for text in overrides if not text.startswith("regularizer")]
        with pytest.raises(ConfigurationError, match=message):
            check_share(compose("compare", own), overrides)


def test_arms_without_a_penalty_have_what_makes_them():
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        configs = {arm: compose("train", [f"regularizer={arm}"]) for arm in ("none", "hard", "geotorch", "muon")}
    for arm, config in configs.items():
        assert config.callbacks.orthogonality.regularizer is None
        assert config.callbacks.orthogonality.weight == 0
        assert (config.callbacks.constraint is not None) == (arm in ("hard", "geotorch"))
        assert (config.model.kernel_optimizer is not None) == (arm == "muon")
    constraint = instantiate(configs["hard"].callbacks.constraint)
    assert isinstance(constraint, OrthogonalConstraint)
    assert list(constraint.exclude) == ["net.local.0"]
    for model in ("pointnet", "small_cnn", "resnet18"):
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            config = compose("train", ["regularizer=muon", f"model={model}"])
        module = instantiate(config.model)
        kernels = {id(kernel) for kernel in module.kernel_optimizer.kernels(module)}
        names = [name for name, parameter in module.named_parameters() if id(parameter) in kernels]
        assert not {f"{config.first_layer}.weight", f"{config.last_layer}.weight"} & set(names)
        assert len(names) == len(select_layers(module)) - 2


def test_the_search_varies_values_that_a_training_has():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["hparams_search=cifar10_lsh"], return_hydra_config=True)
    assert str(config.hydra.mode).endswith("MULTIRUN")
    assert str(config.hydra.sweeper.direction).endswith("maximize")
    varied = dict(config.hydra.sweeper.params)
    assert set(varied) == {"regularizer.weight.share", "regularizer.penalty.lambda1", "regularizer.penalty.gamma"}
    for name, text in varied.items():
        low, high = (float(number) for number in re.search(r"interval\((.*?)\)", text)[1].split(","))
        assert low <= OmegaConf.select(config, name) <= high, name
