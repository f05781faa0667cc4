"""Running the commands as a user does, on configurations small enough for a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "experiment=shapes",
    "data.train_clouds=64",
    "data.val_clouds=16",
    "data.test_clouds=16",
    "data.points=16",
    "data.batch_size=8",
    "model.net.width=4",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "callbacks.orthogonality.log_every_n_steps=4",
)


def run_script(name: str, *arguments: str, cwd: Path, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``scripts/<name>.py`` in another folder; its output comes back."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    if expect is not None:
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
    return done
