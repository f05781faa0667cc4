"""scripts/install.sh where it cannot work: one line with what to do, and nothing that looks installed."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.integration.commands import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix" or shutil.which("sh") is None, reason="a POSIX shell script")


def program(folder, name, text):
    """A program of this name that is found before the system's."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def install(tmp_path, python=sys.executable, megabytes=1, expect=1, **variables):
    """Run the script; the lines that it writes come back."""
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    # the indexes of this machine are left out
    without = {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    environment = {**os.environ, **without, "PATH": path, "PYTHON": python, **variables}
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "install.sh"), "venv", ".", str(megabytes)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return (done.stdout + done.stderr).splitlines()


@pytest.fixture
def empty_venv(tmp_path):
    """An environment with a pip that does what a test says, in place of one that takes seconds to make."""

    def make(pip):
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        own = f'case "$*" in *version_info*) echo 3.12 ;; *"pip --version"*) ;; *) {pip} ;; esac\n'
        program(tmp_path / "venv" / "bin", "python", own)

    return make


def test_no_python_and_an_old_python_are_told_with_the_remedy(tmp_path):
    (line,) = install(tmp_path, python="no-such-python")
    assert line.startswith("error: there is no no-such-python: install Python 3.10 or later")
    for version in ("3.8", "3.9", "2.7"):
        program(tmp_path / "bin", "python3", f"echo {version}\n")
        (line,) = install(tmp_path, python="python3")
        assert line.startswith(f"error: python3 is Python {version}, and 3.10 or later is needed")
        assert "PYTHON=/path/to/python3 make" in line
    assert not (tmp_path / "venv").exists()


def test_an_old_python_in_the_environment_is_told_too(tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    program(tmp_path / "venv" / "bin", "python", "echo 3.9\n")
    (line,) = install(tmp_path)
    assert line.startswith("error: venv/bin/python is Python 3.9")
    assert "remove the folder venv" in line


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the size is that of Linux")
def test_a_disk_that_is_too_small_is_told_before_anything_is_installed(tmp_path):
    program(tmp_path / "bin", "df", "echo header; echo /dev/disk 9999999 9000000 2048000 90% /\n")
    (line,) = install(tmp_path, megabytes=5000)
    assert line.startswith("error: 2097 MB are free on the disk of venv, and 5000 MB are needed: free some")
    assert not (tmp_path / "venv" / "bin").exists()


def test_a_python_that_makes_no_environments_is_told(tmp_path):
    program(
        tmp_path / "bin",
        "python3",
        'case "$*" in *version*) echo 3.12 ;; *) echo ensurepip is missing; exit 1 ;; esac\n',
    )
    (line,) = install(tmp_path, python="python3")
    assert "apt install python3-venv" in line


def test_no_network_is_told_by_pips_own_settings(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", "venv"], cwd=tmp_path, check=True
    )
    (line,) = install(tmp_path, PIP_NO_INDEX="1")
    assert line.startswith("error: pip reaches no package index (")
    assert "connect to the network, or name a proxy or a mirror" in line
    (line,) = install(tmp_path, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_CACHE_DIR="1")
    assert line.startswith("error: pip reaches no package index (")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full: free some space"),
        ("urllib3.exceptions.ReadTimeoutError: ReadTimeout", "the connection was lost: run the same command again"),
        ("ERROR: something else", "pip could not install the package; what it said is above"),
    ],
)
def test_what_ends_pip_is_the_last_line(tmp_path, empty_venv, reason, message):
    empty_venv(f'case "$*" in *download*) ;; *) echo "{reason}" >> venv/install.log; echo progress; exit 1 ;; esac')
    lines = install(tmp_path)
    assert lines[0] == "progress"
    assert lines[-1].startswith(f"error: {message}")


def test_an_installation_that_works_says_nothing_of_its_own(tmp_path, empty_venv):
    empty_venv("echo installed")
    assert install(tmp_path, expect=0) == ["installed"]
    assert not (tmp_path / "venv" / "install.log").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("order", [("demo", "install"), ("install", "demo"), ("demo", "demo"), ("install", "install")])
def test_the_demo_installs_without_extras_and_either_order_works_and_repeats_nothing(tmp_path, empty_venv, order):
    empty_venv('echo "$*" >> log; touch venv/lib')
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "venv" / "lib" / "python3" / "site-packages" / "torch").mkdir(parents=True)  # the disk is not asked
    for target in order:
        subprocess.run(["make", "VENV=venv", "SEEDS=[0,1]", target], cwd=tmp_path, check=True, capture_output=True)
    log = (tmp_path / "log").read_text().splitlines()
    installed = [line.rpartition(" ")[2] for line in log if " install " in line]
    assert installed == ([".", ".[test,dev]"] if "install" in order else ["."])
    demos = [line for line in log if line.startswith("scripts/compare.py")]
    assert demos == ["scripts/compare.py experiment=shapes seeds=[0,1]"] * order.count("demo")
