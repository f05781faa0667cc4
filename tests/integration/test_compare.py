"""scripts/compare.py on a tiny configuration: the runs that it makes, repeats or gathers, and the report."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.integration.commands import ROOT, TINY, run_script

ARMS = ("seeds=[0,1]", "regularizers=[none,lsh]", "jobs=2")


def content_of(folder):
    return json.loads((folder / "results.json").read_text())


def comparisons(folder):
    return sorted(path.parent for path in folder.glob("outputs/compare/shapes/*/report.html"))


def timeless(runs):
    """What runs with the same seeds must agree in to the last bit: everything but how long a step took."""
    return [{key: value for key, value in run.items() if key != "step_ms"} for run in runs]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison: where it was made, its folder, and what it printed."""
    cwd = tmp_path_factory.mktemp("compared")
    done = run_script("compare", *TINY, *ARMS, "costs=1", cwd=cwd)
    (folder,) = comparisons(cwd)
    return cwd, folder, done.stdout


def test_arms_and_seeds_make_a_report(compared):
    _, folder, shown = compared
    content = content_of(folder)
    assert [(run["regularizer"], run["seed"]) for run in content["runs"]] == [
        ("none", 0), ("lsh", 0), ("none", 1), ("lsh", 1)
    ]  # fmt: skip
    assert content["runs"][0]["penalty"] is None
    assert content["runs"][1]["penalty"] > 0
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert content["summary"]["sentence"] in shown
    assert content["summary"]["sentence"] in (folder / "report.md").read_text()
    assert re.search(r"^\| lsh +\|", shown, re.MULTILINE)
    own = json.loads((folder / "lsh-seed1" / "results.json").read_text())
    assert own["test_accuracy"] == content["runs"][3]["test_accuracy"]
    assert len(own["history"]) == 2
    assert content["settings"]["command"].startswith("python scripts/compare.py experiment=shapes")
    assert list(content["costs"]) == ["none", "lsh"]
    assert content["costs"]["none"]["ratio"] == 1
    assert content["costs"]["lsh"]["peak_ratio"] > 1


def test_a_log_shows_every_arms_epochs_the_time_left_and_what_to_do_next(compared):
    cwd, folder, shown = compared
    folder = folder.relative_to(cwd)
    lines = shown.splitlines()
    assert lines[0] == f"4 runs of 2 epochs, 2 at a time; the output of each is in {folder}/*/output.log"
    progress = [line for line in lines if "in all, " in line]
    assert re.search(r"(none|lsh), seed [01]: [12] of 2 epochs; [1-4] of 8 in all, about \d+ (s|min) left", progress[0])
    assert {arm for arm in ("none", "lsh") if any(arm in line for line in progress)} == {"none", "lsh"}
    assert str(folder / "report.html") in shown
    commands = [line.strip() for line in lines[-8:] if line.startswith("  ")]
    assert f"tensorboard --logdir {folder}" in commands[0]
    assert "data.root=PATH" in commands[1]
    assert "'seeds=[0,1,2,3]'" in commands[2]


def test_arms_of_a_seed_start_alike_and_seeds_differ(compared):
    none, lsh, other, _ = content_of(compared[1])["runs"]
    assert none["start"] == lsh["start"]
    assert none["start"]["weights"] != other["start"]["weights"]
    assert none["start"]["batch"] != other["start"]["batch"]


def test_the_same_command_again_runs_nothing_and_another_arm_only_itself(compared):
    cwd, folder, _ = compared
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"}
    shown = run_script("compare", *TINY, *ARMS, "costs=1", cwd=cwd).stdout
    assert "4 of 4 runs are already finished" in shown
    assert {path: path.read_bytes() for path in before} == before
    shown = run_script("compare", *TINY, "seeds=[0]", "regularizers=[none,gram]", cwd=cwd).stdout
    assert "1 of 2 runs are already finished" in shown
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        "none-seed0", "none-seed1", "lsh-seed0", "lsh-seed1", "gram-seed0"
    }  # fmt: skip


def test_a_folder_of_another_configuration_is_rejected_before_anything_runs(compared):
    cwd, folder, _ = compared
    done = run_script("compare", *TINY, *ARMS, "model.net.width=6", f"hydra.run.dir={folder}", cwd=cwd, expect=2)
    assert "holds a run of another configuration: model.net.width=4 (now 6)" in done.stderr


def test_runs_of_several_machines_are_gathered(compared, tmp_path):
    _, folder, _ = compared
    for name in ("none-seed0", "none-seed1", "lsh-seed0"):
        machine = tmp_path / ("first" if name.startswith("none") else "second")
        shutil.copytree(folder / name, machine / name)
    shutil.copytree(folder / "lsh-seed1", tmp_path / "second" / "killed")
    (tmp_path / "second" / "killed" / "results.json").unlink()
    done = run_script("compare", f"gather={tmp_path}", cwd=tmp_path, expect=1)
    assert "failed: lsh, seed 1: not finished" in done.stdout
    found = [run for run in content_of(tmp_path)["runs"] if run.pop("failure") is None]
    assert found == [content_of(folder / name) for name in ("none-seed0", "lsh-seed0", "none-seed1")]
    other = tmp_path / "second" / "lsh-seed0" / "config.yaml"
    other.write_text(other.read_text().replace("width: 4", "width: 5"))
    done = run_script("compare", f"gather={tmp_path}", cwd=tmp_path, expect=2)
    assert "cannot be compared: they differ in model.net.width (4 and 5)" in done.stderr


def test_any_arm_can_be_the_one_that_the_others_are_compared_with(compared, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(compared[1], folder)
    costs = {"none": {"ratio": 1.0, "peak_ratio": 1.0}, "lsh": {"ratio": 1.25, "peak_ratio": 2.0}}
    (folder / "costs.json").write_text(json.dumps({"machine": {}, "arms": costs}))
    run_script("compare", f"gather={folder}", cwd=tmp_path)
    usual = content_of(folder)
    shown = run_script("compare", f"gather={folder}", "baseline=lsh", cwd=tmp_path).stdout
    other = content_of(folder)
    to_none, to_lsh = ({arm["arm"]: arm["difference"] for arm in one["summary"]["arms"]} for one in (usual, other))
    assert to_none["none"] is to_lsh["lsh"] is None
    assert to_lsh["none"]["mean"] == -to_none["lsh"]["mean"]
    ratios = {arm: (cost["ratio"], cost["peak_ratio"]) for arm, cost in other["costs"].items()}
    assert ratios == {"none": (0.8, 0.5), "lsh": (1.0, 1.0)}
    assert "0.80 times lsh's" in shown
    done = run_script("compare", f"gather={folder}", "baseline=hard", cwd=tmp_path, expect=2)
    assert "baseline='hard': there are ['none', " in done.stderr


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path):
    done = run_script("compare", *TINY, "regularizers=[none]", "seeds=[-5,0]", "costs=0", cwd=tmp_path, expect=1)
    assert "failed: none, seed -5: exit status 1: ortho_lightning.errors.ConfigurationError: seed=-5" in done.stdout
    (folder,) = comparisons(tmp_path)
    failed, finished = content_of(folder)["runs"]
    assert "seed=-5" in failed["failure"]
    assert finished["test_accuracy"] is not None
    assert content_of(folder)["summary"]["arms"][0]["failed"][0]["seed"] == -5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["regularizers=[none,orthogonal]"], "regularizers=['orthogonal']: there are ["),
        (["seeds=[]"], "seeds=[], regularizers="),
        (["jobs=0"], "jobs=0"),
        (["jobs=two"], "jobs=two: must be an integer"),
        (["trainer.max_epochs=abc"], "trainer.max_epochs=abc: must be an integer or null"),
        (["trainer.max_epoch=3"], "Did you mean 'max_epochs'?"),
        (["experiment=nothing"], "Could not find 'experiment/nothing'"),
        (["target=75"], "target=75"),
        (["baseline=gram", "regularizers=[none,lsh]"], "baseline='gram': there are ['none', 'lsh']"),
        (["seed=3"], "seed=3: a comparison takes lists"),
        (["seeds=0"], "seeds=0: must be a list"),
        (["tuned=typo"], "tuned=typo: there are ['cifar10', 'none']"),
        (["tune=true", "regularizer.weight=0.5"], "tune=true tries grid's values of it"),
        (["gather=nowhere"], "there are no runs of train or compare in it"),
        (["factors=[model.net.norm]"], "factors=['model.net.norm']: both need gather=FOLDER"),
        (["by=seed"], "by=seed: must be a list of keys"),
        (
            ["regularizer.penalty.gamma=20"],
            """for lsh, which has it: '+arms.lsh=["regularizer.penalty.gamma=VALUE"]'""",
        ),
        (["regularizer.constraint.radius=1"], """'+arms.geotorch=["regularizer.constraint.radius=VALUE"]'"""),
        (["regularizer.penalty.nosuch=1"], "No arm has this key"),
        (["gather=x", "+arms.lsh=['regularizer.penalty.gamma=1']"], "the runs of gather=x have their settings"),
        (["tune=true", "regularizer.weight=0.5", "regularizers=[lsh]"], "tune=true tries grid's values of it"),
        (["regularizer.wieght=20"], "Did you mean 'weight'?"),
        (
            ["+arms.lsh=['regularizer.penalty.gama=20']"],
            "lsh, seed 0, with the overrides of all arms and its own: Could not override 'regularizer.penalty.gama",
        ),
        (["+arms.hard=['trainer.max_epochs=1']"], "arms.hard=['trainer.max_epochs=1']: the arms are ['none', "),
        (["tune=true", "+arms.lsh=['regularizer.weight=1']"], "tune=true reads grid.lsh"),
        (["tune=true", "+grid.gram=[1]"], "grid.gram=[1]: must be a list of keys with values"),
    ],
)
def test_mistakes_are_named(tmp_path, overrides, message):
    done = run_script("compare", *TINY, *overrides, cwd=tmp_path, expect=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_killed_comparison_goes_on_to_the_same_table(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    options = [text for text in TINY if "max_epochs" not in text]
    options += ["trainer.max_epochs=5", "data.train_clouds=256", "regularizers=[none,lsh]", "costs=0"]
    run_script("compare", *options, cwd=whole)
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *options]
    process = subprocess.Popen(
        command,
        cwd=parts,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(3000):
        (history,) = list(parts.glob("outputs/compare/shapes/*/lsh-seed0/history.json")) or [None]
        if history is not None and (history.parent / "checkpoints" / "last.ckpt").is_file():
            break
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = history.parent
    assert not (killed / "results.json").exists()
    assert (killed.parent / "none-seed0" / "results.json").is_file()
    shown = run_script("compare", *options, cwd=parts).stdout
    assert "1 of 2 runs are already finished" in shown
    assert "Restored all states from the checkpoint" in (killed / "output.log").read_text()
    (reference,), (resumed,) = comparisons(whole), comparisons(parts)
    assert timeless(content_of(resumed)["runs"]) == timeless(content_of(reference)["runs"])
    assert content_of(resumed)["summary"] == content_of(reference)["summary"]
    assert (resumed / "report.md").read_bytes() == (reference / "report.md").read_bytes()


def test_hydra_launchers_share_a_comparison_among_their_jobs(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    options = [text for text in TINY if "max_epochs" not in text]
    run_script(
        *("compare", "-m", *launcher, *options, "trainer.max_epochs=1"),
        *("regularizers=[none],[gram]", "costs=0"),
        cwd=tmp_path,
    )
    (folder,) = comparisons(tmp_path)
    found = content_of(folder)
    assert [(run["regularizer"], run["failure"]) for run in found["runs"]] == [("none", None), ("gram", None)]


def test_runs_are_distributed_when_asked_also_inside_of_a_slurm_job(tmp_path, monkeypatch):
    for name, value in (("NTASKS", "1"), ("NTASKS_PER_NODE", "1"), ("JOB_NAME", "sweep"), ("PROCID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    options = [text for text in TINY if "max_epochs" not in text]
    distributed = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    arms = ("regularizers=[lsh]", "costs=0")
    run_script("compare", *options, *distributed, *arms, "trainer.max_epochs=1", cwd=tmp_path)
    (folder,) = comparisons(tmp_path)
    (run,) = content_of(folder)["runs"]
    assert run["steps"] == 64 // (8 * 2)
    assert run["failure"] is None


def test_tuning_chooses_by_validation_accuracy(tmp_path):
    options = [text for text in TINY if "max_epochs" not in text]
    options += ["trainer.max_epochs=1", "regularizers=[none,gram]", "seeds=[7]"]
    # the second of each ruins the training
    decay = "model.optimizer.weight_decay"
    grid = (f"+grid.gram=['regularizer.weight=0.001,1e6','{decay}=5e-4']", f"grid.none=['{decay}=1e-4,1e3']")
    shown = run_script(
        "compare", *options, *grid, "extend=0", "data.train_clouds=512", "tune=true", "jobs=2", cwd=tmp_path
    ).stdout
    (tuned,) = tmp_path.glob("outputs/compare/shapes/*/tuned.yaml")
    trials = json.loads((tuned.parent / "trials.json").read_text())
    assert [(one["arm"], one["setting"]) for one in trials] == [
        ("none", "model.optimizer.weight_decay=0.0001"), ("none", "model.optimizer.weight_decay=1000.0"),
        ("gram", "regularizer.weight=0.001"), ("gram", "regularizer.weight=1000000.0"),
        ("gram", f"regularizer.weight=0.001 {decay}=0.0005"),
    ]  # fmt: skip
    # the experiment's own weight decay is not tried twice
    assert trials[4]["val_accuracy"] == trials[2]["val_accuracy"]
    assert len(list(tuned.parent.glob("*/results.json"))) == 4
    best = {}
    for one in trials:
        if one["val_accuracy"] > best.get(one["arm"], (-1, ""))[0]:
            best[one["arm"]] = (one["val_accuracy"], one["setting"])
        assert f"{100 * one['val_accuracy']:.2f}" in shown
    text = tuned.read_text()
    assert f"none:\n  - {best['none'][1]}" in text
    assert f"gram:\n  - {best['gram'][1]}\n  - {decay}=0.0005" in text
    assert "# python scripts/compare.py experiment=shapes" in text


def test_a_failed_job_of_a_launcher_does_not_end_the_others(tmp_path):
    options = [text for text in TINY if "max_epochs" not in text]
    arms = ("seeds=[-1],[0]", "regularizers=[none]", "costs=0", "trainer.max_epochs=1")
    done = run_script("compare", "-m", *options, *arms, cwd=tmp_path, expect=1)
    (folder,) = comparisons(tmp_path)
    assert [(run["seed"], run["failure"] is None) for run in content_of(folder)["runs"]] == [(-1, False), (0, True)]
    assert "failed: none, seed -1" in done.stdout


@pytest.mark.slow
def test_every_arm_trains_in_one_comparison(tmp_path):
    done = run_script("compare", *TINY, "regularizers=all", "share=0.1", "costs=1", cwd=tmp_path)
    (folder,) = comparisons(tmp_path)
    content = content_of(folder)
    arms = {path.stem for path in (ROOT / "conf" / "regularizer").glob("*.yaml")}
    left_out = set(re.findall(r"regularizers=all leaves out (\w+), which needs", done.stdout))
    assert {run["regularizer"] for run in content["runs"]} == set(content["costs"]) == arms - left_out
    for run in content["runs"]:
        assert run["failure"] is None
        assert math.isfinite(run["history"][-1]["train_loss"])
        assert 0 <= run["test_accuracy"] <= 1
    weights = {
        arm: yaml.safe_load((folder / f"{arm}-seed0" / "config.yaml").read_text())["regularizer"]
        for arm in arms - left_out
    }
    assert weights["gram"]["weight"]["share"] == weights["lsh"]["weight"]["share"] == 0.1
    assert weights["none"]["weight"] == weights["hard"]["weight"] == 0
    ratios = [cost["ratio"] for cost in content["costs"].values()]
    assert all(ratio > 0 for ratio in ratios)
