"""Folders of files: resuming after kill -9, a full disk, and several processes."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from ortho_lightning import Whitening
from tests.experiments.embeddings.files import vectors
from tests.integration.commands import ROOT

# Kills itself, as kill -9 does, in the second part of the third file.
KILLED = """
import os, signal, sys
from ortho_lightning.experiments.embeddings.vector_files.arrays import NpyFile
from ortho_lightning.experiments import whiten
parts = NpyFile.parts
def dying(self):
    for number, part in enumerate(parts(self)):
        if self.path.name == "2.npy" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield part
NpyFile.parts = dying
sys.argv = ["ortho-whiten", *sys.argv[1:]]
whiten.main()
"""


@pytest.fixture
def folder(tmp_path):
    """Four files of 20,000 vectors, two parts each."""
    shards = tmp_path / "shards"
    shards.mkdir()
    x = vectors(80_000, 4, dtype=np.float64)
    for number, part in enumerate(np.split(x, 4)):
        np.save(shards / f"{number}.npy", part)
    return x


def test_a_folder_becomes_a_folder(command, folder):
    said = command("fit=shards", "out=w.safetensors", "progress=false")
    assert "80000 vectors of 4 numbers" in said
    expected = Whitening().double().fit(folder)
    torch.testing.assert_close(Whitening.load("w.safetensors")(folder), expected(folder), rtol=1e-10, atol=1e-10)
    assert "small: 80000 vectors" in command("apply=w.safetensors", "to=shards", "out=small", "progress=false")
    assert sorted(path.name for path in (command.folder / "small").iterdir()) == [f"{i}.npy" for i in range(4)]
    small = np.concatenate([np.load(f"small/{i}.npy") for i in range(4)])
    np.testing.assert_allclose(small, expected(folder).numpy(), rtol=1e-9, atol=1e-9)
    assert "name a folder" in command.rejects("apply=w.safetensors", "to=shards", "out=w.safetensors")
    assert "out=shards is a folder" in command.rejects("apply=w.safetensors", "to=shards/0.npy", "out=shards")
    np.save("shards/4.npy", vectors(10, 3))
    assert "4.npy has vectors of 3 numbers" in command.rejects("fit=shards", "out=v.safetensors")


def test_weights_of_a_folder_are_a_folder(command, folder):
    weights = np.random.default_rng(0).random(80_000)
    (command.folder / "weights").mkdir()
    for number, part in enumerate(np.split(weights, 4)):
        np.save(f"weights/{number}.npy", part)
    command("fit=shards", "weights=weights", "out=w.safetensors", "progress=false")
    expected = Whitening().double().fit(folder, weights=weights)
    torch.testing.assert_close(Whitening.load("w.safetensors")(folder), expected(folder), rtol=1e-9, atol=1e-9)
    assert "give a folder" in command.rejects("fit=shards", "weights=weights/0.npy", "out=v.safetensors")
    (command.folder / "weights" / "3.npy").unlink()
    message = command.rejects("fit=shards", "weights=weights", "out=v.safetensors", "progress=false")
    assert "weights/3.npy cannot be read as the weights of shards/3.npy" in message


def killed(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "progress=false"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -9, done.stderr


def test_a_fit_goes_on_where_it_was_killed(command, folder, monkeypatch):
    killed("fit=shards", "out=w.safetensors")
    assert not (command.folder / "w.safetensors").exists()
    read = _counted(monkeypatch)
    command("fit=shards", "out=w.safetensors", "progress=false")
    assert read == ["2.npy", "3.npy"]
    expected = Whitening().double().fit(folder)
    torch.testing.assert_close(Whitening.load("w.safetensors")(folder), expected(folder), rtol=1e-10, atol=1e-10)
    assert sorted(path.name for path in command.folder.iterdir()) == ["shards", "w.safetensors"]


def test_a_fit_starts_again_where_a_file_or_an_option_changed(command, folder, monkeypatch):
    killed("fit=shards", "out=w.safetensors")
    read = _counted(monkeypatch)
    command("fit=shards", "out=w.safetensors", "accumulation=float32", "progress=false")
    assert read == [f"{number}.npy" for number in range(4)]
    killed("fit=shards", "out=w.safetensors")
    np.save("shards/0.npy", np.load("shards/0.npy")[:-1])
    read.clear()
    assert "79999 vectors" in command("fit=shards", "out=w.safetensors", "progress=false")
    assert read == [f"{number}.npy" for number in range(4)]


def test_an_apply_goes_on_where_it_was_killed(command, folder, monkeypatch):
    command("fit=shards", "out=w.safetensors", "progress=false")
    killed("apply=w.safetensors", "to=shards", "out=small")
    written = {path.name for path in (command.folder / "small").iterdir() if not path.name.startswith(".")}
    assert written == {"0.npy", "1.npy"}  # nothing half-written under its name
    read = _counted(monkeypatch)
    command("apply=w.safetensors", "to=shards", "out=small", "progress=false")
    assert read == ["2.npy", "3.npy"]
    small = np.concatenate([np.load(f"small/{i}.npy") for i in range(4)])
    np.testing.assert_allclose(small, Whitening.load("w.safetensors")(folder).numpy(), rtol=1e-12)
    assert sorted(path.name for path in (command.folder / "small").iterdir()) == [f"{i}.npy" for i in range(4)]


def test_an_apply_of_another_whitening_keeps_nothing(command, folder, monkeypatch):
    command("fit=shards", "out=w.safetensors", "progress=false")
    killed("apply=w.safetensors", "to=shards", "out=small")
    command("fit=shards", "out=w.safetensors", "gamma=0", "progress=false")
    read = _counted(monkeypatch)
    command("apply=w.safetensors", "to=shards", "out=small", "progress=false")
    assert read == [f"{number}.npy" for number in range(4)]


def _counted(monkeypatch):
    from ortho_lightning.experiments.embeddings.vector_files.arrays import NpyFile

    parts, read = NpyFile.parts, []

    def counted(self):
        read.append(self.path.name)
        return parts(self)

    monkeypatch.setattr(NpyFile, "parts", counted)
    return read


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".parquet"])
def test_a_full_disk_is_named_and_nothing_half_written_stays(command, ending):
    disk = command.folder / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs to be root")
    try:
        np.save("x.npy", vectors(20_000, 6))
        command("fit=x.npy", "out=w.safetensors", "progress=false")
        message = command.rejects("apply=w.safetensors", "to=x.npy", f"out=disk/y{ending}", "progress=false")
        assert f"disk/y{ending} cannot be written: no space left on its disk" in message
        np.save("wide.npy", vectors(200, 120))
        assert "no space left" in command.rejects("fit=wide.npy", "out=disk/w.safetensors", "progress=false")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_processes_are_one(command, folder):
    weights = np.random.default_rng(0).random(80_000)
    (command.folder / "weights").mkdir()
    for number, part in enumerate(np.split(weights, 4)):
        np.save(f"weights/{number}.npy", part)
    np.save("shards/2.npy", np.load("shards/2.npy") + 100)  # means that differ
    options = ["fit=shards", "weights=weights", "shrinkage=ledoit-wolf", "progress=false"]
    command(*options, "out=one.safetensors")
    torchrun(*options, "out=two.safetensors")
    one, two = (Whitening.load(f"{name}.safetensors") for name in ("one", "two"))
    for name, expected in one.state_dict().items():
        scale = expected.abs().max().clamp_min(1.0)
        torch.testing.assert_close(two.state_dict()[name] / scale, expected / scale, rtol=1e-12, atol=1e-12, msg=name)
    assert "small: 80000 vectors" in torchrun("apply=two.safetensors", "to=shards", "out=small", "progress=false")
    assert sorted(path.name for path in (command.folder / "small").iterdir()) == [f"{i}.npy" for i in range(4)]


def torchrun(*arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    started = subprocess.Popen(
        [*launcher, "-m", "ortho_lightning.experiments.whiten", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # so that its processes can be ended with it
    )
    try:
        said, complaints = started.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    assert started.returncode == 0, complaints
    return said
