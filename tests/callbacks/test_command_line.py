"""LightningCLI configures the callbacks, with the real jsonargparse."""

import contextlib
import importlib
import io
import sys

import pytest
import yaml

from ortho_lightning import AngleMonitor, GradientShare, OrthogonalityCallback
from ortho_lightning.regularizers import LSH, Gram
from ortho_lightning.schedules import LinearWarmup
from tests.callbacks.helpers import PACKAGES, boring

FIT = {
    "accelerator": "cpu", "max_steps": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "limit_val_batches": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _arguments_of_pytest_are_not_ours(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])


def cli(package, *args, run=True):
    made = importlib.import_module(f"{package}.cli")
    classes = boring(package)
    return made.LightningCLI(
        classes.BoringModel, classes.BoringDataModule, args=list(args), run=run, save_config_callback=None
    )


def config(tmp_path, *callbacks):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": {**FIT, "callbacks": list(callbacks)}}))
    return f"--config={path}"


WHOLE = {
    "class_path": "ortho_lightning.OrthogonalityCallback",
    "init_args": {
        "regularizer": {
            "class_path": "ortho_lightning.LSH",
            "init_args": {"lambda1": 0.0, "probe": "exact", "max_samples": None},
        },
        "layers": ["lay*"],
        "exclude": None,
        "weight": 0.25,
        "schedule": {"class_path": "ortho_lightning.schedules.LinearWarmup", "init_args": {"steps": 3}},
        "monitor": {"class_path": "ortho_lightning.AngleMonitor", "init_args": {"every_n_steps": 2, "figures": None}},
        "log_every_n_steps": 1,
        "name": "cli",
    },
}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_part_is_configured_from_yaml_and_trains(package, tmp_path):
    made = cli(package, "fit", config(tmp_path, WHOLE))
    (callback,) = [each for each in made.trainer.callbacks if isinstance(each, OrthogonalityCallback)]
    assert isinstance(callback.regularizer, LSH)
    assert (callback.regularizer.lambda1, callback.regularizer.probe) == (0.0, "exact")
    assert isinstance(callback.schedule, LinearWarmup)
    assert callback.schedule.steps == 3
    assert isinstance(callback.monitor, AngleMonitor)
    assert callback.monitor.every_n_steps == 2
    assert (callback.weight, callback.layers, callback.name) == (0.25, ["lay*"], "cli")
    assert made.trainer.callback_metrics["cli/penalty"].isfinite()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_share_as_weight_is_configured_from_yaml(package, tmp_path):
    share = {"class_path": "ortho_lightning.GradientShare", "init_args": {"share": 0.2, "every_n_steps": 10}}
    options = {"regularizer": "ortho_lightning.Gram", "weight": share, "log_every_n_steps": 1}
    made = cli(
        package,
        "fit",
        config(tmp_path, {"class_path": "ortho_lightning.OrthogonalityCallback", "init_args": options}),
    )
    (callback,) = [each for each in made.trainer.callbacks if isinstance(each, OrthogonalityCallback)]
    assert callback.weight == GradientShare(0.2, every_n_steps=10)
    assert made.trainer.callback_metrics["ortho/weight"] > 0


@pytest.mark.parametrize("package", PACKAGES)
def test_defaults_work_and_monitor_and_regularizer_may_be_none(package, tmp_path):
    for options in ({}, {"monitor": None}, {"regularizer": None}, {"layers": "layer"}, {"monitor": "auto"}):
        made = cli(
            package,
            "fit",
            config(tmp_path, {"class_path": "ortho_lightning.OrthogonalityCallback", "init_args": options}),
        )
        (callback,) = [each for each in made.trainer.callbacks if isinstance(each, OrthogonalityCallback)]
        for name, value in options.items():
            assert name == "monitor" or getattr(callback, name) == value
        assert (callback.monitor is None) == ("monitor" in options and options["monitor"] is None)


@pytest.mark.parametrize("package", PACKAGES)
def test_arguments_of_the_command_line_configure_it(package):
    made = cli(
        package,
        "--trainer.logger=false",
        "--trainer.callbacks+=ortho_lightning.OrthogonalityCallback",
        "--trainer.callbacks.weight=0.125",
        "--trainer.callbacks.regularizer=ortho_lightning.Gram",
        "--trainer.callbacks.regularizer.off_diagonal=true",
        run=False,
    )
    (callback,) = [each for each in made.trainer.callbacks if isinstance(each, OrthogonalityCallback)]
    assert callback.weight == 0.125
    assert isinstance(callback.regularizer, Gram)
    assert callback.regularizer.off_diagonal


@pytest.mark.parametrize("package", PACKAGES)
def test_the_printed_configuration_configures_the_same(package, tmp_path):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as left:
        cli(package, "fit", config(tmp_path, WHOLE), "--print_config")
    assert left.value.code == 0
    (written,) = yaml.safe_load(printed.getvalue())["trainer"]["callbacks"]
    assert written["init_args"]["schedule"]["init_args"]["steps"] == 3
    again = tmp_path / "again.yaml"
    again.write_text(printed.getvalue())
    made = cli(package, "fit", f"--config={again}")
    assert made.trainer.callback_metrics["cli/penalty"].isfinite()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["OrthogonalityCallback", "AngleMonitor", "WhiteningCallback"])
def test_help_lists_the_options(package, name):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as left:
        cli(package, "fit", f"--trainer.callbacks.help=ortho_lightning.{name}")
    assert left.value.code == 0
    assert "name" in shown.getvalue()
    if name == "OrthogonalityCallback":
        assert all(option in shown.getvalue() for option in ("weight", "regularizer", "schedule", "monitor"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_value_that_cannot_work_ends_with_the_message_of_the_callback(package, tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)) as left:
        cli(
            package,
            "fit",
            config(tmp_path, {"class_path": "ortho_lightning.OrthogonalityCallback", "init_args": {"weight": -1.0}}),
        )
    assert "weight=-1.0" in str(left.value) + capsys.readouterr().err
