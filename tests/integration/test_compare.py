"""scripts/compare.py on a tiny configuration."""

import csv
import json

from ortho_lightning.experiments.compare import table
from tests.integration.commands import TINY, run_script


def test_arms_and_seeds_make_a_table_and_files(tmp_path):
    done = run_script("compare", *TINY, "seeds=[0,1]", "regularizers=[none,lsh]", cwd=tmp_path)
    (folder,) = (path.parent for path in tmp_path.glob("outputs/compare/shapes/*/results.json"))
    results = json.loads((folder / "results.json").read_text())
    assert [(run["regularizer"], run["seed"]) for run in results] == [("none", 0), ("lsh", 0), ("none", 1), ("lsh", 1)]
    assert results[0]["penalty"] is None
    assert results[1]["penalty"] > 0
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["test_accuracy"]) == results[1]["test_accuracy"]
    shown = done.stdout.splitlines()
    assert any(line.startswith("| arm ") and "angle spread (deg)" in line for line in shown)
    assert any(line.startswith("| lsh ") for line in shown)
    own = json.loads((folder / "lsh-seed1" / "results.json").read_text())
    assert 100 * own["test_accuracy"] == results[3]["test_accuracy"]


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path):
    done = run_script("compare", *TINY, "regularizers=[none]", "seeds=[-5,0]", cwd=tmp_path, expect=1)
    assert "none (1 of 2 failed)" in done.stdout
    assert "failed: none, seed -5: exit status 1: ortho_lightning.errors.ConfigurationError: seed=-5" in done.stdout
    (results,) = tmp_path.glob("outputs/compare/shapes/*/results.json")
    failed, finished = json.loads(results.read_text())
    assert "seed=-5" in failed["failure"]
    assert finished["test_accuracy"] is not None


def test_unknown_arms_are_named(tmp_path):
    done = run_script("compare", *TINY, "regularizers=[none,orthogonal]", cwd=tmp_path, expect=2)
    assert "regularizers=['orthogonal']: there are ['gram', " in done.stderr


def test_the_table_averages_over_seeds():
    runs = [
        {"regularizer": "lsh", "seed": seed, "failure": None, "test_accuracy": accuracy, "penalty": 0.5,
         "angle_mean": 90.0, "angle_std": 5.0, "spread_ratio": 1.5, "step_ms": 12.0}
        for seed, accuracy in ((0, 80.0), (1, 81.0))
    ]  # fmt: skip
    runs.append({"regularizer": "gram", "seed": 0, "failure": "exit status 1"})
    lines = table(runs).splitlines()
    assert "80.50" in lines[2]
    assert lines[3].startswith("| gram (1 of 1 failed) | - ")
