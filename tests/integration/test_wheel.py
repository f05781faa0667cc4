"""The wheel, installed into an empty site directory, is complete and finds its configuration from anywhere."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_wheel_composes_its_configuration(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    assert (site / "ortho_lightning" / "conf" / "train.yaml").is_file()
    assert (site / "ortho_lightning" / "py.typed").is_file()
    assert {"ortho-train", "ortho-compare", "ortho-whiten"} <= {path.name for path in (site / "bin").iterdir()}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    shown = subprocess.run(
        [sys.executable, str(site / "bin" / "ortho-train"), "experiment=cifar10", "regularizer=lsh", "--cfg", "job"],
        cwd=elsewhere, env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "ortho_lightning.regularizers.LSH" in shown
    recipe = "from ortho_lightning.configuration import recipe_file; print(recipe_file('olora').read_text())"
    shown = subprocess.run(
        [sys.executable, "-c", recipe], cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "Anchored" in shown
    where = "import ortho_lightning.experiments.common.cli as c; print(c.conf_dir())"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert found.strip() == str(site / "ortho_lightning" / "conf")
