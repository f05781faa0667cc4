"""The overrides that a run of a comparison gets."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.experiments.comparison.plan import plan, tuned_settings


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


def test_unknown_arms_are_named():
    with pytest.raises(ConfigurationError, match=r"regularizers=\['orthogonal'\]: there are \['gram'"):
        planned("regularizers=[none,orthogonal]")


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
