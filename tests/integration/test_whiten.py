"""scripts/whiten.py from a shell: the table, vectors in files, and what is refused."""

import csv
import json

import numpy as np
import pytest

from ortho_lightning import Whitening
from tests.integration.commands import run_script


def embeddings(folder, name="tiny", d=6, seed=0):
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    scale = np.linspace(2, 0.3, d)
    for split, n in (("train", 60), ("dev", 50), ("test", 40)):
        a = random.standard_normal((n, d)) * scale + 1
        b = a + random.standard_normal((n, d))
        score = random.integers(0, 6, n)
        np.savez(folder / f"{name}-{split}.npz", a=a.astype(np.float16), b=b.astype(np.float16), score=score)
    return folder


SMALL = ("grid.betas=[0,1]", "grid.gammas=[0,0.5,1]", "cut=3", "bootstrap=50", "progress=false")


def test_the_table_of_two_encoders(tmp_path):
    root = embeddings(embeddings(tmp_path / "data"), "other", d=4, seed=1)
    done = run_script(
        "whiten", "experiment=stsb", f"data.root={root}", "whitening.beta=1", "whitening.gamma=0.5",
        "whitening.n_components=2", *SMALL, cwd=tmp_path,
    )  # fmt: skip
    (folder,) = (path.parent for path in tmp_path.glob("outputs/whiten/*/results.json"))
    rows = json.loads((folder / "results.json").read_text())["rows"]
    shown = [(row["encoder"], row["beta"], row["gamma"], row["n_components"]) for row in rows]
    assert shown[4:7] == [("tiny", 1, 1, 3), ("tiny", 0, 0, 3), ("tiny", 1, 0.5, 2)]
    assert [row["chosen"] for row in rows] == ["by hand"] * 3 + ["on dev"] + ["by hand"] * 3 + ["on dev"]
    assert rows[1]["raw"] == pytest.approx(rows[1]["whitened"], abs=1e-9)  # a rotation changes no cosine
    assert rows[1]["whitened_low"] == pytest.approx(0, abs=1e-9) == rows[1]["whitened_high"]
    for row in rows:
        assert row["cut_low"] < row["whitened_and_cut"] - row["raw"] < row["cut_high"]
        assert f"[{row['cut_low']:+.2f}, {row['cut_high']:+.2f}]" in done.stdout
    with (folder / "results.csv").open() as file:
        assert [float(row["raw"]) for row in csv.DictReader(file)] == [row["raw"] for row in rows]
    assert (folder / "results.md").read_text().splitlines()[:10] == [
        line for line in done.stdout.splitlines() if line.startswith("|")
    ]
    for name in ("tiny-search.png", "other-search.png", "spectrum.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "versions.json").read_text())["scipy"]
    with (folder / "tiny-search.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    asked = Whitening.load(folder / "tiny.safetensors")
    assert (asked.n_components, asked.beta, asked.gamma, asked.moments.count) == (2, 1.0, 0.5, 300)
    tuned = Whitening.load(folder / "tiny-tuned.safetensors")
    assert (tuned.n_components, tuned.beta, tuned.gamma) == tuple(rows[7][k] for k in ("n_components", "beta", "gamma"))


def test_the_figures_of_the_shared_embeddings(tmp_path, shared):
    root = shared("data/stsb")
    run_script("whiten", "experiment=stsb", f"data.root={root}", "grid.betas=[1]", "grid.gammas=[0.1,0.9]",
               "bootstrap=1000", "progress=false", cwd=tmp_path)  # fmt: skip
    (results,) = tmp_path.glob("outputs/whiten/*/results.json")
    rows = {(row["encoder"], row["beta"], row["gamma"]): row for row in json.loads(results.read_text())["rows"]}

    def figures(*key):
        return [rows[key][name] for name in ("raw", "whitened", "whitened_and_cut")]

    assert figures("minilm-sentence", 1, 1) == pytest.approx([82.03, 80.27, 80.75], abs=0.01)
    assert figures("minilm-sentence", 0, 0) == pytest.approx([82.03, 82.03, 82.26], abs=0.01)
    assert figures("minilm-token", 1, 1) == pytest.approx([55.60, 70.51, 69.97], abs=0.01)
    assert figures("minilm-token", 0, 0) == pytest.approx([55.60, 55.60, 55.17], abs=0.01)
    # full whitening hurts the supervised encoder and helps the raw one; a cut rotation loses nothing on the former
    assert rows["minilm-sentence", 1, 1]["whitened"] < 82.03 < rows["minilm-sentence", 0, 0]["whitened_and_cut"]
    assert rows["minilm-sentence", 1, 1]["whitened_high"] < 0 < rows["minilm-token", 1, 1]["whitened_low"]
    assert rows["minilm-sentence", 0, 0]["cut_low"] > -0.5


def test_retrieval(tmp_path):
    pytest.importorskip("faiss")
    root = embeddings(tmp_path / "data")
    done = run_script("whiten", "experiment=stsb", f"data.root={root}", "retrieval=true", "retrieval_widths=[6,3]",
                      *SMALL, cwd=tmp_path)  # fmt: skip
    (found,) = tmp_path.glob("outputs/whiten/*/retrieval.json")
    rows = json.loads(found.read_text())
    assert [(row["beta"], row["n_components"], row["bytes_per_vector"]) for row in rows] == [
        (None, 6, 24), (0, 6, 24), (0, 3, 12), (1, 6, 24), (1, 3, 12)
    ]  # fmt: skip
    assert rows[0]["recall_at_10"] == 1
    assert rows[1]["recall_at_10"] > 0.99  # a rotation
    assert rows[2]["recall_at_10"] < 1
    assert "recall@10 (%)" in done.stdout


def test_fit_and_apply_from_disk(tmp_path):
    x = np.random.default_rng(0).standard_normal((500, 8)) + 3
    np.save(tmp_path / "vectors.npy", x)
    done = run_script("whiten", "fit=vectors.npy", "out=w.safetensors", "n_components=5", "gamma=0.5", cwd=tmp_path)
    assert "w.safetensors: 500 vectors of 8 numbers, rank 8" in done.stdout
    assert "500/500" in done.stderr
    done = run_script("whiten", "apply=w.safetensors", "to=vectors.npy", "out=small.npy", cwd=tmp_path)
    assert "small.npy: 500 vectors of 5 numbers" in done.stdout
    small = np.load(tmp_path / "small.npy")
    assert small.dtype == np.float64  # as the vectors
    np.testing.assert_allclose(small, Whitening(5, 1.0, 0.5).double().fit(x)(x).numpy(), rtol=1e-10, atol=1e-10)


def test_what_cannot_work_is_said_in_a_line_and_nothing_is_written(tmp_path):
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 4))
    np.save(tmp_path / "x.npy", x)
    x[17, 2] = np.nan
    np.save(tmp_path / "nan.npy", x)
    np.save(tmp_path / "whole.npy", np.ones((3, 4), dtype=int))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:500])
    Whitening().fit(random.standard_normal((40, 3))).save(tmp_path / "w3.safetensors")
    Whitening().fit(random.standard_normal((40, 4))).save(tmp_path / "w4.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w4.safetensors").read_bytes()[:300])
    before = {path.name for path in tmp_path.iterdir()}
    for arguments, message in (
        ("fit=no.npy out=w.safetensors", "no.npy does not exist"),
        ("fit=x.npy", "out=null: name the file to write, out=NAME.safetensors"),
        ("fit=x.npy out=w.npy", "out=w.npy: the file is written as .safetensors"),
        ("fit=x.npy out=w.safetensors n_components=5", "n_components=5: x.npy has vectors of 4 numbers"),
        ("fit=x.npy out=w.safetensors gamma=-1", "gamma=-1"),
        ("fit=x.npy out=w.safetensors beta=much", "beta='much'"),
        ("fit=nan.npy out=w.safetensors", "nan.npy: the vectors hold NaN or infinity in 1 row(s): 17"),
        ("fit=whole.npy out=w.safetensors", "whole.npy holds int64 (3, 4)"),
        ("fit=cut.npy out=w.safetensors", "cut.npy cannot be read"),
        ("apply=w4.safetensors out=y.npy", "to=null"),
        ("apply=w3.safetensors to=x.npy out=y.npy", "w3.safetensors was fitted on 3"),
        ("apply=cut.safetensors to=x.npy out=y.npy", "cut.safetensors cannot be read"),
        ("apply=w4.safetensors to=nan.npy out=y.npy", "nan.npy: row 17 holds NaN"),
        ("to=x.npy", "apply=whitening.safetensors"),
        ("fit=x.npy apply=w4.safetensors", "fit=x.npy and apply=w4.safetensors: ask for one"),
    ):
        _refused(tmp_path, arguments, message)
    assert {path.name for path in tmp_path.iterdir()} == before


def _refused(tmp_path, arguments, message):
    done = in_process(tmp_path, arguments)
    assert message in done, done


def in_process(tmp_path, arguments):
    """What the command refuses with; composed here, since a process each would take a minute."""
    from hydra import compose, initialize_config_dir

    from ortho_lightning.errors import ConfigurationError, DataError
    from ortho_lightning.experiments import whiten
    from ortho_lightning.experiments.common.cli import conf_dir

    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("whiten", [*arguments.split(), f"run_dir={tmp_path}", "data.root=x", "progress=false"])
    for key in ("fit", "apply", "to", "out"):
        if config[key] is not None:
            config[key] = str(tmp_path / config[key])
    with pytest.raises((ConfigurationError, DataError)) as refused:
        whiten.run(config)
    return str(refused.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root=nowhere", "nowhere does not exist"),
        ("whitening=none", "Could not find 'whitening/none'"),
        ("data.root=. whitening.gamma=-1", "gamma=-1"),
        ("data.root=. bootstrap=-1", "bootstrap=-1"),
        ("data.root=. bootstrap=0.5", "bootstrap=0.5"),
    ],
)
def test_a_wrong_override_gives_a_message_and_no_stack_trace(tmp_path, override, message):
    done = run_script("whiten", "experiment=stsb", *override.split(), cwd=tmp_path, expect=None)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_embeddings_that_do_not_belong_together_are_named(tmp_path):
    from ortho_lightning.data import STSEmbeddings
    from ortho_lightning.errors import DataError

    root = embeddings(tmp_path / "data")
    assert set(STSEmbeddings(root).encoders) == {"tiny"}
    path = root / "tiny-test.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"tiny-test\.npz cannot be read"):
        STSEmbeddings(root)
    np.savez(path, a=np.ones((3, 6)), b=np.ones((2, 6)), score=np.ones(3))
    with pytest.raises(DataError, match=r"tiny-test\.npz: a float64 \(3, 6\), b float64 \(2, 6\)"):
        STSEmbeddings(root)
    np.savez(path, a=np.ones((3, 6)))
    with pytest.raises(DataError, match="must hold arrays a, b and score"):
        STSEmbeddings(root)
    np.savez(path, a=np.ones((3, 5)), b=np.ones((3, 5)), score=np.ones(3))
    with pytest.raises(DataError, match="vectors of different sizes"):
        STSEmbeddings(root)
    np.savez(path, a=np.ones((3, 6)), b=np.ones((3, 6)), score=np.array([1.0, np.nan, 2.0]))
    with pytest.raises(DataError, match=r"tiny-test\.npz: score 1 is not a finite number"):
        STSEmbeddings(root)
    np.savez(path, a=np.ones((0, 6)), b=np.ones((0, 6)), score=np.ones(0))
    with pytest.raises(DataError, match=r"tiny-test\.npz holds no pairs"):
        STSEmbeddings(root)
    path.unlink()
    with pytest.raises(DataError, match=r"tiny-test\.npz is missing"):
        STSEmbeddings(root)


def test_the_benchmark_measures_and_leaves_no_file(tmp_path):
    done = run_script("whiten", "benchmark=true", "benchmark_rows=5000", "benchmark_columns=16",
                      "benchmark_pca_rows=500", "benchmark_repeats=1", "progress=false", cwd=tmp_path)  # fmt: skip
    (found,) = tmp_path.glob("outputs/whiten/*/benchmark.json")
    rows = json.loads(found.read_text())["rows"]
    assert [row["vectors"] for row in rows] == [5000, 5000, 5000, 5000, 500, 500]
    assert all(row["seconds"] > 0 for row in rows)
    assert "IncrementalPCA" in done.stdout
    assert not list(tmp_path.rglob("*.npy"))
