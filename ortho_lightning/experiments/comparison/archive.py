"""Runs without their weights and event files, in one small archive that ``compare gather=`` reads.

python -m ortho_lightning.experiments.comparison.archive FOLDER runs.zip
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import plain_errors
from ortho_lightning.experiments.comparison.run_folder import (
    CONFIG,
    FAILURE,
    LABEL,
    RESULTS,
    VERSIONS,
    find_runs,
    runs_under,
)
from ortho_lightning.experiments.comparison.step_costs import COSTS
from ortho_lightning.experiments.comparison.tune import TRIALS, TUNED
from ortho_lightning.files import whole_file, write_text

_OF_A_RUN = (LABEL, CONFIG, RESULTS, FAILURE, VERSIONS)
_OF_ALL = (COSTS, TRIALS, TUNED)
_TIME = (1980, 1, 1, 0, 0, 0)  # the same runs give the same bytes
_ENDING = ".zip"


def is_archive(path: Path) -> bool:
    """Return whether a path names an archive: by its ending, unless it is a folder."""
    return path.suffix == _ENDING and not path.is_dir()


def pack(folder: Path, archive: Path) -> int:
    """Write the records and configurations of the runs under a folder into an archive, without the folder's own path.

    A run that was moved or copied there names the folder that it was made in; that path is left out as well.

    Args:
        folder: of a comparison, a tuning or a sweep.
        archive: to write, ``.zip``.

    Returns:
        The number of runs.

    Raises:
        ConfigurationError: for a folder without runs, or another ending.
    """
    if not is_archive(archive):
        raise ConfigurationError(f"{archive}: the archive is written as {_ENDING}; name it so")
    folder = folder.expanduser().resolve()
    runs = find_runs(folder)
    moved = _moved(folder, runs)
    with whole_file(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as to:
        for path in _kept(folder, runs):
            text = path.read_text(encoding="utf-8")
            for before, now in moved.items():
                text = text.replace(before, now)
            text = text.replace(f"{folder}/", "").replace(str(folder), ".")
            to.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix(), _TIME), text, zipfile.ZIP_DEFLATED)
    return len(runs)


def _kept(folder: Path, runs: list[Path]) -> Iterator[Path]:
    places = [(folder, _OF_ALL), *((run, _OF_A_RUN) for run in runs)]
    yield from (place / name for place, names in places for name in names if (place / name).is_file())


def _moved(folder: Path, runs: list[Path]) -> dict[str, str]:
    """The places that runs were made in, where those are others than now, and the present ones; the longest first."""
    found: dict[str, str] = {}
    for run in runs:
        made_in = _made_in(run)
        if made_in is not None and made_in != str(run):
            found[made_in] = str(run)
            whole = made_in.removesuffix(f"/{run.relative_to(folder).as_posix()}")
            if whole not in (made_in, ""):  # the folder was moved, and with it runs that name no place of their own
                found[whole] = str(folder)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _made_in(run: Path) -> str | None:
    """The folder that a run's configuration names; None without a whole path."""
    named = OmegaConf.select(OmegaConf.load(run / CONFIG), "run_dir") if (run / CONFIG).is_file() else None
    return named if named is not None and Path(named).is_absolute() else None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of runs into a folder that is empty, or holds the same runs already.

    Raises:
        ConfigurationError: for an archive that does not exist or cannot be read, or a folder with other runs.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            texts = {name: packed.read(name).decode() for name in packed.namelist() if not name.endswith("/")}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"gather={archive} cannot be read: {error}") from error
    packed_runs = {(folder / name).parent for name in texts if Path(name).name in _OF_A_RUN}
    others = [run for run in runs_under(folder) if run not in packed_runs]
    if others:
        raise ConfigurationError(f"{others[0]} is no run of gather={archive}: give another hydra.run.dir, or remove it")
    outside = [name for name in texts if not (folder / name).resolve().is_relative_to(folder.resolve())]
    if outside:
        raise ConfigurationError(f"gather={archive}: {outside[0]} lies outside of the archive")
    for name, text in texts.items():
        write_text(folder / name, text)


def main() -> None:
    """Pack the runs of a folder given on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of finished runs")
    parser.add_argument("archive", type=Path, help="the .zip file to write")
    plain_errors(_run)(parser.parse_args())


def _run(arguments: argparse.Namespace) -> None:
    count = pack(arguments.folder, arguments.archive)
    print(f"{arguments.archive}: {count} runs, {arguments.archive.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
