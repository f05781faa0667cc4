"""Synthetic runs of a comparison, as their ``results.json`` holds them, with angles of real kernels."""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch

from ortho_lightning import functional as OF
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.statistics import summarize
from ortho_lightning.experiments.comparison.step_costs import StepCost
from ortho_lightning.experiments.report.comparison import Comparison, ComparisonSettings

ARMS = ("none", "gram", "lsh")
# how far the filters of an arm lean towards three common directions, and its gain in accuracy
_LEAN = {"none": 0.35, "gram": 0.15, "lsh": 0.05}
_GAIN = {"none": 0.0, "gram": 0.004, "lsh": 0.012}
# filters and dimension of each layer; in the first there are more filters than dimensions
_SHAPES = ((32, 9), (16, 27), (32, 144), (32, 288), (64, 288), (64, 576), (10, 256))


def scores(arm: str, accuracies, seeds=None, **more):
    """The runs of an arm with these test accuracies (fractions; None for nothing tested), and nothing else."""
    seeds = range(len(accuracies)) if seeds is None else seeds
    return [
        {"regularizer": arm, "seed": seed, "failure": None, "test_accuracy": accuracy, "history": [], "layers": [],
         "start": {"weights": f"w{seed}", "batch": f"b{seed}"}, **more}
        for seed, accuracy in zip(seeds, accuracies, strict=True)
    ]  # fmt: skip


@functools.lru_cache
def _layers(arm: str, seed: int, shapes):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, (k, d) in enumerate(shapes):
        kernel = torch.randn(k, d, generator=generator, dtype=torch.float64)
        common = torch.randn(k, 3, generator=generator, dtype=torch.float64)
        kernel += _LEAN.get(arm, 0.1) * common @ torch.randn(3, d, generator=generator, dtype=torch.float64)
        one = OF.angle_statistics(kernel)
        inputs = torch.randn(200, d, generator=generator, dtype=torch.float64).relu()
        responses = OF.response_statistics(inputs @ kernel.T)
        found.append(
            {"name": f"net.stage{number}.conv", "groups": 1, "k": k, "d": d, "mean": one.mean, "std": one.std,
             "min": one.min, "max": one.max, "rms_cos": one.rms_cos, "max_abs_cos": one.max_abs_cos,
             "null_std": OF.null_std(d), "spread_ratio": one.std / OF.null_std(d),
             "welch_floor": OF.welch_floor(k, d), "response_mean": responses.mean,
             "response_std": responses.std, "response_samples": responses.n,
             "counts": one.counts.tolist(), "response_counts": responses.counts.tolist()}
        )  # fmt: skip
    return found


def layers(arm: str, seed: int, shapes=_SHAPES):
    """The angle report of layers whose filters lean together."""
    return copy.deepcopy(_layers(arm, seed, shapes))


def run(arm: str, seed: int, epochs: int = 10, shapes=_SHAPES, robust: bool = True):
    """A finished run with everything in it."""
    rng = np.random.default_rng([seed, len(arm), ord(arm[0])])
    luck = 0.006 * np.random.default_rng(seed).normal()
    final = 0.75 + luck + _GAIN.get(arm, 0.0) + 0.004 * rng.normal()
    report = layers(arm, seed, shapes)
    history = []
    for epoch in range(epochs):
        done = 1 - np.exp(-(epoch + 1) / 2.5)
        history.append(
            {"epoch": epoch, "train_loss": float(2.3 - 1.7 * done + 0.03 * rng.normal()),
             "train_accuracy": float(final * done + 0.02), "val_loss": float(2.3 - 1.5 * done),
             "val_accuracy": float(final * done + 0.008 * rng.normal()), "penalty": None if arm == "none" else 0.1,
             "angle_mean": 90 - float(done), "angle_std": 6 + float(done),
             "spread_ratio": float(1 + (_LEAN.get(arm, 0.1) * 6 - 0.5) * done + 0.02 * rng.normal()),
             "max_abs_cos": 0.5}
        )  # fmt: skip
    best = max(history, key=lambda one: one["val_accuracy"], default=None)
    return {
        "regularizer": arm, "seed": seed, "failure": None, "test_accuracy": float(final),
        "val_accuracy": history[-1]["val_accuracy"] if history else None,
        "best": best and {"epoch": best["epoch"], "val_accuracy": best["val_accuracy"], "test_accuracy": final - 0.001},
        "history": history, "start": {"weights": f"w{seed}", "batch": f"b{seed}"},
        "chance": {"accuracy": 0.1, "samples": 10_000},
        "penalty": None if arm == "none" else 0.1234, "step_ms": 10.0 + len(arm), "steps": 400, "layers": report,
        "robustness": {"noise 0.02": final - 0.03, "missing 0.5": final - 0.1, "rotated": final - 0.4} if robust
        else {},
    }  # fmt: skip


def records(runs):
    """The runs as the package reads them."""
    return [RunRecord.from_json(one) for one in runs]


def comparison(runs, costs=None, baseline="none", **options):
    """A comparison of these runs."""
    settings = ComparisonSettings(
        experiment="cifar10",
        command="python scripts/compare.py experiment=cifar10 'seeds=[0,1,2]'",
        regularizers=list(dict.fromkeys(one["regularizer"] for one in runs)),
        seeds=list(dict.fromkeys(one["seed"] for one in runs)),
        baseline=baseline,
        commits=["0123456789abcdef0123456789abcdef01234567"],
        machine={"processor": "a processor", "cores": 2, "gpu": None, "torch": "2.9.0"},
    )
    return Comparison(settings, records(runs), summarize(records(runs), baseline=baseline, **options), costs or {})


def full():
    """Three arms times eight seeds, with costs and one failed run."""
    runs = [run(arm, seed) for seed in range(8) for arm in ARMS]
    runs[4] = {"regularizer": "gram", "seed": 1, "failure": "exit status 1: MemoryError: <script>alert('no')</script>"}
    costs = {arm: StepCost(step_ms=10.0 + i, ratio=1 + i / 10, peak_mb=900.0 + 40 * i, peak_ratio=1 + i / 20)
             for i, arm in enumerate(ARMS)}  # fmt: skip
    return comparison(runs, costs)
