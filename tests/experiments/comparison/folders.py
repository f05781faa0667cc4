"""Folders of runs, as far as gathering and packing look at them."""

import json

from omegaconf import OmegaConf


def make(folder, arm, seed, settings=(), failure=None, overrides=(), accuracy=0.5, **changes):
    """A run's folder; changes are given by dotted names, "/" for "."."""
    folder.mkdir(parents=True)
    config = OmegaConf.create(
        {
            "seed": seed, "run_dir": str(folder), "ckpt_path": None, "logger": None,
            "regularizer": {"weight": 0.1},
            "data": {"seed": seed, "root": str(folder), "batch_size": 8},
            "model": {"optimizer": {"lr": 0.1, "weight_decay": 5e-4}},
            "trainer": {"max_epochs": 2, "max_steps": -1},
            "callbacks": {"orthogonality": {"weight": 0.0 if arm == "none" else 0.1}},
        }
    )  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("/", "."), value)
    OmegaConf.save(config, folder / "config.yaml")
    label = {"experiment": "shapes", "regularizer": arm, "seed": seed, "settings": list(settings),
             "overrides": list(overrides)}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(label))
    if failure is None:
        (folder / "results.json").write_text(json.dumps({"regularizer": arm, "seed": seed, "test_accuracy": accuracy}))
    elif failure:
        (folder / "failure.json").write_text(json.dumps({"reason": failure}))
