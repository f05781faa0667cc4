"""Both package names of Lightning, in every order of imports."""

import importlib
import itertools
import subprocess
import sys

import pytest

from ortho_lightning import AngleMonitor, OrthogonalityCallback, WhiteningCallback
from ortho_lightning.regularizers import Gram
from tests.callbacks.helpers import PACKAGES, boring

OTHER = dict(zip(PACKAGES, reversed(PACKAGES), strict=True))
QUIET = {
    "accelerator": "cpu", "max_steps": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "limit_val_batches": 0,
}  # fmt: skip


def run(code):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("order", ["lightning first", "lightning last", "lightning after the callback was made"])
def test_a_program_that_uses_one_package_gets_its_callback_and_loads_no_other(package, order):
    steps = {
        "lightning": f"import {package} as pl",
        "ours": "from ortho_lightning import AngleMonitor, OrthogonalityCallback, WhiteningCallback",
        "make": "made = [OrthogonalityCallback(), AngleMonitor(name='a'), WhiteningCallback('layer')]",
    }
    orders = {
        "lightning first": ("lightning", "ours", "make"),
        "lightning last": ("ours", "lightning", "make"),
        "lightning after the callback was made": ("ours", "make", "lightning"),
    }
    run(
        "\n".join(["import sys", *(steps[step] for step in orders[order])])
        + f"""
for one in made:
    assert issubclass(type(one), pl.Callback) and isinstance(one, pl.Callback), type(one).__mro__
    assert one in pl.Trainer(callbacks=one, **{QUIET!r}).callbacks
assert {OTHER[package]!r} not in sys.modules
"""
    )


@pytest.mark.parametrize("order", itertools.permutations(["ortho_lightning", *PACKAGES]))
def test_a_program_that_uses_both_packages_gets_callbacks_of_both(order):
    run(
        f"""
import importlib
for name in {order!r}:
    importlib.import_module(name)
import lightning.pytorch, ortho_lightning, pytorch_lightning
for package in (lightning.pytorch, pytorch_lightning):
    assert issubclass(ortho_lightning.OrthogonalityCallback, package.Callback)
    package.Trainer(callbacks=ortho_lightning.OrthogonalityCallback(), **{QUIET!r})
"""
    )


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("first", [True, False])
def test_the_messages_of_lightning_keep_their_logger(package, first):
    imports = [f"import {package} as pl", "from ortho_lightning import OrthogonalityCallback"]
    said = run(
        "\n".join(imports if first else reversed(imports))
        + f"""
import logging
logging.getLogger({package!r}).setLevel(logging.ERROR)
pl.Trainer(callbacks=[OrthogonalityCallback()], **{QUIET!r})
"""
    )
    assert "GPU available" not in said


def test_the_formulas_need_no_lightning():
    run(
        "import sys, ortho_lightning\n"
        "ortho_lightning.OrthogonalityCallback().angle_report(__import__('torch').nn.Linear(4, 3))\n"
        "assert not {'lightning', 'pytorch_lightning'} & set(sys.modules)"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_one_callback_without_a_list_trains(package):
    callback = OrthogonalityCallback(Gram(), weight=1e-3)
    importlib.import_module(package).Trainer(callbacks=callback, **QUIET).fit(boring(package).BoringModel())
    assert callback.penalty > 0


def test_states_are_kept_under_the_keys_that_lightning_generates():
    for callback in (OrthogonalityCallback(), AngleMonitor(), WhiteningCallback("layer")):
        for package in PACKAGES:
            generate = importlib.import_module(package).Callback._generate_state_key
            assert callback.state_key == generate(callback, name=callback.name)


def test_a_callback_is_copied_and_subclassed_like_any_other():
    import copy
    import pickle

    from pytorch_lightning import Callback

    class Own(OrthogonalityCallback, Callback):
        pass

    assert Own(weight=0.5).weight == 0.5
    callback = OrthogonalityCallback(weight=0.25)
    for other in (copy.copy(callback), copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert isinstance(other, Callback)
        assert other.weight == 0.25
