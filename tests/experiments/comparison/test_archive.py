"""Archives of runs: small, the same bytes for the same runs, and the same comparison when they are gathered."""

import subprocess
import sys
import zipfile

import pytest
from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.archive import pack, unpack
from ortho_lightning.experiments.comparison.gather import gather, gathered
from ortho_lightning.experiments.comparison.run_folder import find_runs
from tests.experiments.comparison.folders import make


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    make(folder / "none-seed0", "none", 0)
    make(folder / "lsh-seed0", "lsh", 0, ["regularizer.weight=0.1"])
    make(folder / "deep" / "lsh-seed1", "lsh", 1, ["regularizer.weight=0.1"], failure="out of memory")
    (folder / "none-seed0" / "checkpoints").mkdir()
    (folder / "none-seed0" / "checkpoints" / "last.ckpt").write_bytes(b"weights" * 1000)
    (folder / "none-seed0" / "versions.json").write_text('{"git": "abc"}')
    (folder / "costs.json").write_text("{}")
    return folder


def test_an_archive_gives_the_records_back_without_weights_and_without_the_place(runs, tmp_path):
    assert pack(runs, tmp_path / "runs.zip") == 3
    back = tmp_path / "back"
    unpack(tmp_path / "runs.zip", back)
    assert gathered(find_runs(back)) == gathered(find_runs(runs))
    assert (back / "none-seed0" / "versions.json").read_text() == '{"git": "abc"}'
    assert (back / "costs.json").is_file()
    assert not (back / "none-seed0" / "checkpoints").exists()
    texts = [path.read_text() for path in back.rglob("*") if path.is_file()]
    assert not any(str(runs) in text for text in texts)
    assert OmegaConf.load(back / "none-seed0" / "config.yaml").run_dir == "none-seed0"


def test_an_archive_of_runs_that_were_moved_names_neither_place(runs, tmp_path):
    place = runs.rename(tmp_path / "elsewhere")
    failed = place / "deep" / "lsh-seed1"
    (failed / "config.yaml").unlink()
    (failed / "failure.json").write_text(f'{{"failure": "see {runs}/deep/lsh-seed1/output.log"}}')
    pack(place, tmp_path / "runs.zip")
    unpack(tmp_path / "runs.zip", tmp_path / "back")
    texts = [path.read_text() for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert not any(str(tmp_path) in text for text in texts)
    assert OmegaConf.load(tmp_path / "back" / "lsh-seed0" / "config.yaml").run_dir == "lsh-seed0"
    assert "see deep/lsh-seed1/output.log" in (tmp_path / "back" / "deep" / "lsh-seed1" / "failure.json").read_text()


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    for name in ("a.zip", "b.zip"):
        pack(runs, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_gathering_an_archive_leaves_its_runs_and_report_in_the_folder_of_the_command(runs, tmp_path):
    pack(runs, tmp_path / "runs.zip")
    config = OmegaConf.create(
        {
            "gather": str(tmp_path / "runs.zip"),
            "run_dir": str(tmp_path / "out"),
            "by": None,
            "factors": None,
            "baseline": "none",
        }
    )
    for _ in range(2):  # a second time over the first
        found = gather(config, [])
    assert found.folder == (tmp_path / "out" / "runs").resolve()
    assert found.records == gathered(find_runs(runs))


def test_a_folder_may_be_named_like_an_archive(runs, tmp_path):
    folder = runs.rename(tmp_path / "runs.zip")
    found = gather(OmegaConf.create({"gather": str(folder), "by": None, "factors": None, "baseline": "none"}), [])
    assert (found.folder, len(found.records)) == (folder, 3)


def test_a_folder_with_other_runs_is_left_alone(runs, tmp_path):
    pack(runs, tmp_path / "runs.zip")
    make(tmp_path / "back" / "other", "gram", 0)
    with pytest.raises(ConfigurationError, match=r"other is no run of gather=.*: give another hydra\.run\.dir"):
        unpack(tmp_path / "runs.zip", tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["other"]


def test_what_is_no_archive_is_refused(runs, tmp_path):
    with pytest.raises(ConfigurationError, match=r"runs\.tar: the archive is written as \.zip"):
        pack(runs, tmp_path / "runs.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="empty: there are no runs"):
        pack(tmp_path / "empty", tmp_path / "runs.zip")
    (tmp_path / "broken.zip").write_text("no zip")
    for name in ("broken.zip", "missing.zip"):
        with pytest.raises(ConfigurationError, match=rf"gather=.*{name} cannot be read"):
            unpack(tmp_path / name, tmp_path / "back")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
        evil.writestr("../outside/run.json", "{}")
    with pytest.raises(ConfigurationError, match=r"\.\./outside/run\.json lies outside"):
        unpack(tmp_path / "evil.zip", tmp_path / "back")
    assert not (tmp_path / "outside").exists()


def test_the_command_says_what_it_packed(runs, tmp_path):
    command = [sys.executable, "-m", "ortho_lightning.experiments.comparison.archive", str(runs)]
    done = subprocess.run([*command, "runs.zip"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("runs.zip: 3 runs, ")
    done = subprocess.run([*command, "runs.gz"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
