"""One run of a comparison: when it counts as done, why it failed, and the lock on its folder."""

import subprocess
import sys
import threading
import time

from ortho_lightning.experiments.comparison.locks import held
from ortho_lightning.experiments.comparison.runs import Run


def test_a_process_that_ends_well_without_results_has_failed(tmp_path, monkeypatch):
    def ends(self, options, threads, lock):
        (self.folder / "output.log").write_text("was told to end\n")
        return 0

    monkeypatch.setattr(Run, "_train", ends)
    run = Run("lsh", 0, tmp_path / "run", [])
    run.execute()
    assert run.record().failure.startswith("exit status 0: was told to end")


def test_a_run_that_another_process_works_on_is_waited_for_until_interrupted(tmp_path):
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom ortho_lightning.experiments.comparison.locks import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / ".lock")]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        run = Run("lsh", 0, tmp_path, [])
        waiting = threading.Thread(target=run.execute)
        waiting.start()
        time.sleep(1)
        assert waiting.is_alive()
        assert not (tmp_path / "run.json").exists()
        run.interrupt()
        waiting.join(30)
        assert not waiting.is_alive()
        assert not (tmp_path / "run.json").exists()
    finally:
        other.kill()
        other.wait()
    with held(tmp_path / ".lock") as descriptor:
        assert descriptor is not None


def test_a_training_holds_the_lock_after_its_parent_was_killed(tmp_path):
    """As a training does that outlives a killed comparison: the same command must not start a second one there."""
    parent = (
        "import subprocess, sys, time\nfrom pathlib import Path\n"
        "from ortho_lightning.experiments.comparison.locks import held\n"
        "with held(Path(sys.argv[1])) as lock:\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'],\n"
        "                             stdin=sys.stdin, pass_fds=[lock])\n"
        "    print(child.pid, flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", parent, str(tmp_path / ".lock")]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert int(killed.stdout.readline()) > 0
        killed.kill()
        killed.wait()
        run = Run("lsh", 0, tmp_path, [])
        waiting = threading.Thread(target=run.execute)
        waiting.start()
        time.sleep(1)
        assert waiting.is_alive()
        run.interrupt()
        waiting.join(30)
        assert not (tmp_path / "run.json").exists()
    finally:
        killed.stdin.close()  # the child ends
    with held(tmp_path / ".lock") as descriptor:
        assert descriptor is not None
