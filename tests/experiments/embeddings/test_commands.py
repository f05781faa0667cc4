"""The command as a new user meets it: usage, names, hyper-parameters, weights, merging, choosing without labels."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from ortho_lightning import Whitening
from tests.experiments.embeddings.files import vectors, write


@pytest.mark.parametrize("arguments", [[], ["--help"], ["fit=x.npy", "-h"]])
def test_usage_shows_the_commands_on_files_first(command, arguments):
    said = command(*arguments)
    places = [said.index(f"ortho-whiten {name}=") for name in ("fit", "apply", "merge", "search", "experiment")]
    assert places == sorted(places)
    assert "keep=0.95" in said


@pytest.mark.parametrize("prefix", ["", "+", "++", "~"])
def test_a_wrong_name_is_answered_with_the_right_one(command, prefix):
    write(command.folder / "x.npy", vectors())
    message = command.rejects("fit=x.npy", "out=w.safetensors", f"{prefix}n_component=4")
    assert "did you mean n_components=?" in message
    assert "+" not in message
    assert "did you mean whitening.gamma=?" in command.rejects("fit=x.npy", "out=w.safetensors", "whitening.gama=1")
    assert "did you mean grid.betas=?" in command.rejects("experiment=stsb", "data.root=.", "grid.beta=[1]")


def test_options_without_a_command_are_answered(command):
    assert "name a command too: fit=, apply=, merge=, search=" in command.rejects("n_components=4")
    assert "ask for one at a time" in command.rejects("fit=x.npy", "search=x.npy")


@pytest.mark.parametrize("name", ["a,b.npy", "a b.npy", "it's.npy", "[1].npy", "a=b.npy", "${x}.npy"])
def test_paths_are_taken_as_they_are(command, name):
    if name == "${x}.npy":
        pytest.skip("interpolation belongs to the configuration")
    write(command.folder / name, vectors())
    assert "120 vectors" in command(f"fit={name}", "out=w.safetensors", "progress=false")


def test_a_wrong_path_is_told_before_anything_heavy_is_loaded(command):
    code = (
        "import sys; sys.argv = ['ortho-whiten', 'fit=no.npy', 'out=w.safetensors']\n"
        "from ortho_lightning.experiments import whiten\n"
        "try: whiten.main()\n"
        "except SystemExit: print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "error: no.npy does not exist\n"
    heavy = {"pytorch_lightning", "lightning", "torchvision", "scipy", "sklearn", "matplotlib", "faiss", "pyarrow"}
    assert not heavy & set(done.stdout.split())
    assert not list(command.folder.iterdir())


def test_regularization_and_weights_from_files(command):
    x, weights = vectors(), np.linspace(0, 3, 120)
    np.save("x.npy", x)
    np.save("w.npy", weights)
    said = command(
        "fit=x.npy", "weights=w.npy", "out=w.safetensors", "shrinkage=ledoit-wolf", "eps=0.01", "progress=false"
    )
    assert re.search(r"119 vectors of 6 numbers, .*shrinkage 0\.\d+", said)
    expected = Whitening(shrinkage="ledoit-wolf", eps=0.01).fit(x, weights=weights)
    torch.testing.assert_close(Whitening.load("w.safetensors")(x), expected(x), rtol=1e-4, atol=1e-5)
    command("fit=x.npy", "out=f.safetensors", "accumulation=float32", "shrinkage=0.1", "progress=false")
    torch.testing.assert_close(
        Whitening.load("f.safetensors")(x), Whitening(shrinkage=0.1).fit(x)(x), rtol=1e-3, atol=1e-3
    )
    for weights, message in (
        (np.ones(119), "w.npy cannot be read as the weights of x.npy"),
        (-np.ones(120), "weight 0 of x.npy in w.npy is -1.0"),
    ):
        np.save("w.npy", weights)
        assert message in command.rejects("fit=x.npy", "weights=w.npy", "out=v.safetensors", "progress=false")
    assert "no.npy does not exist" in command.rejects("fit=x.npy", "weights=no.npy", "out=v.safetensors")
    assert "shrinkage='much'" in command.rejects("fit=x.npy", "shrinkage=much", "out=v.safetensors")
    assert "accumulation=half" in command.rejects("fit=x.npy", "accumulation=half", "out=v.safetensors")


def test_merging_is_fitting_on_all(command):
    x = vectors(d=5, dtype=np.float64)
    for name, part in zip("abc", np.split(x, [30, 70]), strict=True):
        np.save(f"{name}.npy", part)
        command(f"fit={name}.npy", f"out={name}.safetensors", "n_components=3", "gamma=0.5", "progress=false")
    said = command("merge=a.safetensors, b.safetensors,c.safetensors", "out=m.safetensors")
    assert "m.safetensors: 120 vectors of 5 numbers" in said
    whole = Whitening(3, 1.0, 0.5, "ledoit-wolf").double().fit(x)
    merged = Whitening.load("m.safetensors")
    assert merged.hyperparameters == Whitening(3, 1.0, 0.5).hyperparameters
    torch.testing.assert_close(merged.refit(shrinkage="ledoit-wolf")(x), whole(x), rtol=1e-9, atol=1e-10)
    command("merge=a.safetensors,b.safetensors", "out=m.safetensors", "n_components=2")
    assert Whitening.load("m.safetensors").n_components == 2
    command("fit=a.npy", "out=a.safetensors", "gamma=0.1", "progress=false")
    assert "gamma is 0.1 in a.safetensors, 0.5 in b.safetensors" in command.rejects(
        "merge=a.safetensors,b.safetensors", "out=m.safetensors", "n_components=2"
    )
    assert "name two or more" in command.rejects("merge=a.safetensors", "out=m.safetensors")
    np.save("d.npy", vectors(d=4))
    command("fit=d.npy", "out=d.safetensors", "progress=false")
    assert "d.safetensors was fitted on vectors of 4 numbers, a.safetensors on 5" in command.rejects(
        "merge=a.safetensors,d.safetensors", "out=m.safetensors"
    )
    assert "no.safetensors cannot be read" in command.rejects("merge=a.safetensors,no.safetensors", "out=m.safetensors")


def test_the_width_is_chosen_without_labels(command):
    x = (np.random.default_rng(0).standard_normal((3000, 16)) / np.arange(1, 17)).astype(np.float32)
    np.save("x.npy", x)
    said = command("fit=x.npy", "keep=0.8", "out=w.safetensors", "queries=100", "progress=false")
    chosen = Whitening.load("w.safetensors")
    assert (chosen.beta, chosen.gamma) == (0.0, 0.0)
    assert chosen.moments.count == 2900  # without the queries
    k = chosen.n_components
    assert re.search(rf"\| {k} +\| {4 * k} +\| \d+% +\| \d+\.\d +\| chosen \|", said)
    assert f"{4 * k} bytes per vector instead of 64" in said
    with (command.folder / "w-recall.csv").open() as file:
        recall = {int(row["n_components"]): float(row["recall"]) for row in csv.DictReader(file)}
    assert recall[k] >= 0.8 > recall[k - 1]
    assert (command.folder / "w-recall.png").read_bytes().startswith(b"\x89PNG")
    # independently: a recall of all vectors, with queries that were not fitted on
    queries, base = vectors(50, 16, seed=5) * 0 + x[:50], x[50:]
    fitted = Whitening(k, 0.0, 0.0).fit(base)
    assert abs(exact_recall(queries, base, fitted) - recall[k]) < 0.08


def exact_recall(queries, base, whitening):
    def nearest(p, q):
        return (torch.nn.functional.normalize(p) @ torch.nn.functional.normalize(q).T).topk(10).indices

    raw = nearest(torch.from_numpy(queries), torch.from_numpy(base))
    found = nearest(whitening(queries), whitening(base))
    return float((raw[:, :, None] == found[:, None]).any(2).double().mean())


def test_a_choice_that_cannot_be_made_is_rejected(command):
    np.save("x.npy", vectors())
    for arguments, message in (
        (["keep=1.5"], "keep=1.5: must be a share"),
        (["keep=0.9", "n_components=3"], "leave n_components=3 out"),
        (["keep=0.9", "shrinkage=0.1"], "without shrinkage and eps"),
        (["keep=0.9", "queries=0"], "queries=0"),
        (["keep=1.0", "beta=1", "gamma=1"], "no whitening of the grid reaches it"),
    ):
        assert message in command.rejects("fit=x.npy", "out=w.safetensors", "progress=false", *arguments)


def test_a_grid_without_labels(command):
    np.save("x.npy", vectors(600))
    said = command("search=x.npy", "out=found", "keep=0.9", "neighbour_grid.gammas=[0,1]", "progress=false")
    assert "The fewest components of recall 0.9: beta=" in said
    with (command.folder / "found" / "recall.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["beta"], row["gamma"]) for row in rows} == {(b, g) for b in ("0.0", "1.0") for g in ("0", "1")}
    assert (command.folder / "found" / "recall.png").exists()
