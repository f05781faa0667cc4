"""scripts/benchmark.py on cases small enough for a test."""

import json
import re

import pytest
from hydra import compose, initialize_config_dir

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.benchmark import run
from ortho_lightning.experiments.common.cli import conf_dir
from tests.integration.commands import run_script


def only(tmp_path, name):
    (path,) = tmp_path.glob(f"outputs/benchmark/*/{name}")
    return path


def test_steps_are_measured_over_what_is_swept(tmp_path):
    done = run_script(
        "benchmark",
        *("sweep=width", "widths=[1,2]", "batch_sizes=[4]", "rounds=1", "arms=[none,lsh]", "trainer.accelerator=cpu"),
        cwd=tmp_path,
    )
    content = json.loads(only(tmp_path, "steps.json").read_text())
    assert [(row["width"], row["arm"]) for row in content["rows"]] == [(1, "none"), (1, "lsh"), (2, "none"), (2, "lsh")]
    assert content["machine"]["cores"] >= 1
    assert only(tmp_path, "steps.png").read_bytes().startswith(b"\x89PNG")
    assert "| small_cnn | 4     | 32     | 2     | lsh  |" in done.stdout
    assert only(tmp_path, "report.md").read_text().strip() in done.stdout
    assert only(tmp_path, "versions.json").is_file()


def test_batches_are_measured(tmp_path):
    done = run_script("benchmark", "measure=data", "rounds=1", cwd=tmp_path)
    assert "augmented images a second" in done.stdout
    assert json.loads(only(tmp_path, "data.json").read_text())["images_per_second"][0] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("measure=speed", "measure='speed': there are"),
        ("measure=estimate", "data.root=null: measure=estimate trains on CIFAR-10"),
        ("arms=[lsh,none]", "the first must be none"),
        ("rounds=0", "rounds=0"),
        ("networks=[alexnet]", "networks='alexnet'"),
        ("batch_sizes=[0]", "batch_size=0"),
        ("arms=[none,lhs]", "arms='lhs'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, capsys, override, message):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("benchmark", [override, f"run_dir='{tmp_path}'"])
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        run(config)
    assert "[1/" not in capsys.readouterr().out


def test_estimate_compares_samples_with_all_rows(tmp_path, shared):
    root = shared("data") / "cifar10" / "cifar10-images.tar.xz"
    run_script(
        "benchmark",
        *("measure=estimate", f"data.root={root}", "estimate.network=small_cnn", "estimate.batch_size=16"),
        *("estimate.max_samples=[64,1024]", "estimate.steps=4", "estimate.every=2"),
        cwd=tmp_path,
    )
    whole, few, many = json.loads(only(tmp_path, "estimate.json").read_text())["rows"]
    assert whole["max_samples"] is None
    assert whole["cosine"] == pytest.approx(1, abs=1e-4)
    assert few["cosine"] < many["cosine"] < 1
    assert few["smallest_cosine"] <= few["cosine"]
