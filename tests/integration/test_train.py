"""scripts/train.py from a shell: files, error messages and resuming."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.experiments.training import overview
from tests.data.small_modelnet import write_hdf5, write_tree
from tests.integration.commands import ROOT, TINY, run_script

LSH_NUMBERS = ("lambda1", "lambda2", "gamma")


def runs(folder):
    return sorted(path.parent for path in folder.rglob("results.json"))


def plugin_data(found, tag):
    return HParamsPluginData.FromString(found.SummaryMetadata(tag).plugin_data.content)


def test_a_run_writes_logs_results_configuration_and_a_figure(tmp_path):
    done = run_script("train", *TINY, "regularizer=lsh_article", "seed=3", cwd=tmp_path)
    (folder,) = runs(tmp_path)
    assert folder.parent == tmp_path / "outputs" / "shapes" / "lsh_article-seed3"
    assert str(folder.name) in done.stdout
    results = json.loads((folder / "results.json").read_text())
    assert 0 <= results["test_accuracy"] <= 1
    assert results["penalty"] > 0
    assert results["step_ms"] > 0
    assert results["steps"] == 16
    assert "net.local.0" not in [layer["name"] for layer in results["layers"]]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["callbacks"]["orthogonality"]["weight"] == config["regularizer"]["weight"] > 0
    assert config["data"]["seed"] == 3
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__ or versions["torch"]
    assert "git" in versions
    assert (folder / "angles.png").read_bytes().startswith(b"\x89PNG")
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert {"ortho/penalty", "ortho/angle_std", "val/accuracy"} <= set(tags["scalars"])
    assert "ortho/angles/net.head" in tags["histograms"]
    found = EventAccumulator(str(folder)).Reload()
    table = plugin_data(found, "_hparams_/experiment").experiment
    assert {column.name for column in table.hparam_infos if column.differs} == {
        "regularizer",
        "weight",
        "share",
        *LSH_NUMBERS,
    }
    judged = {metric.name.tag for metric in table.metric_infos}
    assert {"test/accuracy", "ortho/angle_std"} <= judged <= set(tags["scalars"])
    values = plugin_data(found, "_hparams_/session_start_info").session_start_info.hparams
    chosen = {group: values[group].string_value for group in ("regularizer", "model", "data")}
    assert chosen == {"regularizer": "lsh_article", "model": "pointnet", "data": "shapes"}
    assert [values[name].number_value for name in ("weight", *LSH_NUMBERS)] == [0.1, 100.0, 1.0, 10.0]
    (event,) = found.Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.removeprefix("```yaml\n").removesuffix("```")) == config
    assert "validation accuracy" in done.stdout
    assert re.search(r"\| net.head +\| 12 +\| 16 +\|( +-?[\d.]+ +\|){4}", done.stdout)
    assert "it/s" not in done.stdout + done.stderr
    weights = [event.value for event in EventAccumulator(str(folder)).Reload().Scalars("ortho/weight")]
    assert weights[0] == 0.0
    assert weights[-1] == pytest.approx(config["regularizer"]["weight"])


def test_every_arm_has_the_same_hyperparameters():
    def composed(arm):
        overrides = ["experiment=shapes", f"regularizer={arm}", "run_dir=x"]
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            return overview.hyperparameters(compose("train", overrides))

    lsh, article, gram, none = (composed(arm) for arm in ("lsh", "lsh_article", "gram", "none"))
    assert list(lsh) == list(article) == list(gram) == list(none)  # TensorBoard reads the columns of one run only
    assert (lsh["lambda1"], lsh["lambda2"], lsh["gamma"], lsh["weight"], lsh["share"]) == (0.0, 1.0, 10.0, "-", 0.1)
    assert (article["lambda1"], article["weight"], article["share"]) == (100.0, 0.1, "-")
    assert (gram["gamma"], none["gamma"]) == ("-", "-")
    assert len({values["regularizer"] for values in (lsh, gram, none)}) == 3


def test_multirun_over_arms_and_seeds(tmp_path):
    options = [text for text in TINY if "max_epochs" not in text]
    run_script(
        "train", "-m", *options, "trainer.max_epochs=1", "regularizer=none,gram", "seed=0,1", "logger=csv", cwd=tmp_path
    )
    arms = {str(path.parent.relative_to(tmp_path / "outputs" / "shapes")) for path in runs(tmp_path)}
    assert arms == {"none-seed0", "none-seed1", "gram-seed0", "gram-seed1"}
    assert not list(tmp_path.rglob("events.out*"))


def test_the_same_seed_gives_the_same_numbers_also_across_a_resume(tmp_path):
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    options = [text for text in TINY if "max_epochs" not in text]
    run_script("train", *options, "trainer.max_epochs=4", "regularizer=lsh", cwd=whole)
    (reference,) = runs(whole)
    # stopped by an error at step 12: what is left is the checkpoint of step 11, inside an epoch of 8 steps
    run_script(
        "train",
        *options,
        "trainer.max_epochs=4",
        "regularizer=lsh",
        "callbacks.last.every_n_train_steps=11",
        "hydra.run.dir=outputs/first",
        "+callbacks.stop._target_=tests.integration.stopping.StopAfter",
        "+callbacks.stop.steps=12",
        cwd=parts,
        expect=1,
    )
    assert not runs(parts)
    checkpoint = parts / "outputs" / "first" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=False)["global_step"] == 11
    run_script("train", *options, "trainer.max_epochs=4", "regularizer=lsh", f"ckpt_path={checkpoint}", cwd=parts)
    (resumed,) = runs(parts)
    first, second = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=False) for r in (reference, resumed))
    assert first["global_step"] == second["global_step"] == 32
    for name, value in first["state_dict"].items():
        if "train_accuracy" not in name:
            assert torch.equal(value, second["state_dict"][name]), name
    kept = ("test_accuracy", "val_accuracy", "penalty", "layers")
    results = [json.loads((folder / "results.json").read_text()) for folder in (reference, resumed)]
    assert {key: results[0][key] for key in kept} == {key: results[1][key] for key in kept}


def test_last_finds_the_newest_run_of_the_same_configuration(tmp_path):
    options = [text for text in TINY if "max_epochs" not in text]
    run_script("train", *options, "trainer.max_epochs=1", "regularizer=gram", cwd=tmp_path)
    run_script("train", *options, "trainer.max_epochs=2", "regularizer=gram", "ckpt_path=last", cwd=tmp_path)
    results = [json.loads((folder / "results.json").read_text()) for folder in runs(tmp_path)]
    assert [result["steps"] for result in results] == [8, 16]
    done = run_script("train", *options, "trainer.max_epochs=2", "regularizer=gram", "ckpt_path=last", cwd=tmp_path)
    assert "was complete already" in done.stdout
    done = run_script(
        "train", *options, "regularizer=gram", "model.net.width=6", "ckpt_path=last", cwd=tmp_path, expect=2
    )
    assert "ckpt_path=last: of 2 runs with a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("regularizer=lhs", "Could not find 'regularizer/lhs'"),
        ("regularizer.penalty.gama=3", "Key 'gama' is not in struct"),
        ("regularizer.penalty.gamma=0", "gamma=0"),
        (
            "regularizer.weight=-1",
            "error: weight=-1: must be 0, a positive number or GradientShare(0.1) (while making callbacks",
        ),
        ("callbacks.orthogonality.layers=stem", "selects no layer"),
        ("data.points=0", "points=0"),
        ("ckpt_path=nowhere.ckpt", "there is no such file"),
        ("experiment=cifar10 data.root=nowhere", "nowhere does not exist"),
        ("experiment=modelnet40 data.root=nowhere", "nowhere does not exist"),
        ("experiment=modelnet10 data.val_share=2", "val_share=2"),
        ("trainer.max_epochs=abc", "error: trainer.max_epochs=abc: must be an integer or null"),
        ("seed=abc", "error: seed=abc: must be an integer"),
        ("model.net.width=wide", "error: model.net.width=wide: must be an integer"),
        ("trainer.max_epoch=3", "Did you mean 'max_epochs'?"),
        ("modle=pointnet", "Could not override 'modle'"),
        ("data.points=[1", "error: data.points=[1: no viable alternative"),
        ("model=small_cnn", "error: model=small_cnn does not take the samples of data=shapes, of shape (3, 16)"),
        ("model.net.num_classes=10", "has 10 outputs, and data=shapes has 12 classes: set model.net.num_classes=12"),
        ("trainer.precision=abc", "error: Precision 'abc' is invalid."),
    ],
)
def test_a_wrong_override_gives_one_line_and_no_stack_trace(tmp_path, override, message):
    arguments = [text for text in TINY if not override.startswith("experiment=")]
    done = run_script("train", *arguments, "regularizer=lsh", *override.split(), cwd=tmp_path, expect=None)
    assert done.returncode != 0
    assert message in done.stderr
    lines = done.stderr.splitlines()  # what Lightning says of its accelerators is among them
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("experiment", "classes"), [("modelnet40", 40), ("modelnet10", 10)])
def test_the_modelnet_experiments_have_the_sizes_of_their_sets(experiment, classes):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", "run_dir=x"])
    net = config.model.net
    assert (config.data.num_classes, net.num_classes, config.model.num_classes) == (classes, classes, classes)
    assert (config.data.points, net.width, config.data.surface_points) == (1024, 64, 2048)


@pytest.mark.parametrize(("experiment", "write"), [("modelnet40", write_hdf5), ("modelnet10", write_tree)])
def test_modelnet_is_trained_on_from_either_format(tmp_path, experiment, write):
    pytest.importorskip("h5py")
    root = write(tmp_path / "set", classes=3, train=20, test=10)
    options = (
        f"experiment={experiment}",
        f"data.root={root}",
        "data.num_classes=3",
        "data.points=32",
        "data.surface_points=64",
        "data.cache_dir=cache",
        "data.batch_size=8",
        "data.dropout=0.5",
        "model.net.width=8",
        "model.optimizer.lr=0.02",
        "trainer.max_epochs=10",
        "trainer.enable_progress_bar=false",
        "regularizer=none",
        "logger=csv",
    )
    run_script("train", *options, cwd=tmp_path)
    (folder,) = runs(tmp_path)
    results = json.loads((folder / "results.json").read_text())
    assert results["test_accuracy"] > 0.6  # flat, even and tall boxes; a third by chance
    assert results["steps"] == 10 * (54 // 8)


def test_every_constructor_argument_stands_in_the_configuration():
    import inspect

    from hydra.utils import get_method
    from omegaconf import DictConfig, OmegaConf

    own = set()

    def check(node):
        if isinstance(node, DictConfig):
            target = node.get("_target_")
            if target is not None and target.startswith("ortho_lightning."):
                own.add(target)
                missing = set(inspect.signature(get_method(target)).parameters) - set(node)
                assert not missing, f"{target}: {missing}"
            for key in node:
                check(node[key])

    with initialize_config_dir(conf_dir(), version_base="1.3"):
        for overrides in (
            ["experiment=shapes", "regularizer=lsh"],
            ["experiment=shapes", "regularizer=lsh_article"],
            ["experiment=cifar10", "regularizer=gram"],
            ["experiment=cifar10", "model=resnet18", "regularizer=lsh_exact"],
            ["experiment=modelnet40", "regularizer=lsh_gaussian"],
            ["experiment=modelnet10", "regularizer=none"],
        ):
            config = compose("train", [*overrides, "run_dir=x"])
            check(OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
        config = compose("whiten", ["data.root=x", "run_dir=x"])
        check(OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
    assert len(own) >= 10


def test_the_whole_stack_is_shown_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for override in ("regularizer=lhs", "trainer.max_epochs=abc"):
        done = run_script("train", *TINY, override, cwd=tmp_path, expect=1)
        assert "Traceback" in done.stderr


def test_control_c_names_the_command_that_goes_on(tmp_path):
    options = [text for text in TINY if "max_epochs" not in text]
    options += ["trainer.max_epochs=500", "regularizer=none", "logger=csv", "model.net.dropout=0.1"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(1200):
        if list(tmp_path.rglob("last.ckpt")):
            break
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in shown
    last = shown.strip().splitlines()[-1]
    command = shlex.split(last.removeprefix("interrupted; continue with: "))
    assert command[1:] == [str(ROOT / "scripts" / "train.py"), *options, "ckpt_path=last"]
    # it is what it says: the run goes on from the checkpoint, here for no more than has been done
    done = run_script("train", *command[2:], "trainer.max_epochs=1", cwd=tmp_path)
    assert "was complete already" in done.stdout


def test_control_c_before_the_first_checkpoint_names_no_checkpoint(tmp_path):
    code = (
        "import sys\n"
        "from ortho_lightning.experiments import train\n"
        "def interrupted(config): raise KeyboardInterrupt\n"
        "train.run = interrupted\n"
        "train.main()\n"
    )
    command = [sys.executable, "-c", code, *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("interrupted before the first checkpoint; begin again with: ")
    assert "ckpt_path" not in last
