"""Size of a long training's event files, projected from a short one with the same layers and configuration.

python -m ortho_lightning.experiments.cost.volume RUN --epochs 200 --steps-per-epoch 352
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from ortho_lightning.errors import DataError
from ortho_lightning.tables import markdown_table

_KINDS = {"simple_value": "scalars", "histo": "histograms", "image": "pictures"}  # of a summary's values
_FRAME = 16  # bytes around a record: its length and two checksums


@dataclass
class Series:
    """The records of one tag.

    Attributes:
        kind: "scalars", "histograms", "pictures" or "texts".
        count: number of records.
        size: bytes.
    """

    kind: str
    count: int = 0
    size: int = 0


def read_series(folder: Path) -> dict[str, Series]:
    """Read the records of all event files in ``folder`` by tag; those without a tag under "".

    Raises:
        DataError: if there is no event file.
    """
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        raise DataError(f"{folder}: no event files; give the folder of a run made with logger=tensorboard")
    found: dict[str, Series] = {}
    for file in files:
        for record in RawEventFileLoader(str(file)).Load():
            values = Event.FromString(record).summary.value
            tag, kind = (values[0].tag, values[0].WhichOneof("value")) if values else ("", "")
            series = found.setdefault(tag, Series(_KINDS.get(kind, "texts")))
            series.count += 1
            series.size += len(record) + _FRAME
    return found


Length = tuple[int, int, int]  # epochs, steps, and steps between scalars


def project(series: dict[str, Series], short: Length, long: Length) -> Counter[str]:
    """Project the bytes by kind of a training of length ``long`` from the records of one of length ``short``.

    Histograms are written once an epoch, some also before training, figures and texts a fixed number of times. Scalars
    are written once an epoch or every few steps, some also at the end; those with at most one record an epoch count as
    the former.
    """
    records, long_records = (math.ceil(steps / every) for _, steps, every in (short, long))
    sizes: Counter[str] = Counter()
    for one in series.values():
        if one.kind == "histograms" or (one.kind == "scalars" and one.count <= short[0]):
            factor = (long[0] - short[0]) / one.count + 1
        elif one.kind == "scalars":
            factor = (long_records - records) / one.count + 1
        else:
            factor = 1.0
        sizes[one.kind] += math.ceil(one.size * factor)
    return sizes


def main() -> None:
    """Print the measured and the projected sizes of a run given on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--steps-per-epoch", type=int, default=352, help="352: 45,000 images in batches of 128")
    parser.add_argument("--log-every-n-steps", type=int, default=50)
    arguments = parser.parse_args()
    config = OmegaConf.load(arguments.run / "config.yaml")
    results = json.loads((arguments.run / "results.json").read_text())
    series = read_series(arguments.run)
    short = (config.trainer.max_epochs, results["steps"], config.callbacks.orthogonality.log_every_n_steps)
    long = (arguments.epochs, arguments.epochs * arguments.steps_per_epoch, arguments.log_every_n_steps)
    projected = project(series, short, long)
    rows = [["kind", "this run (MB)", f"{long[0]} epochs, {long[1]} steps (MB)"]]
    measured: Counter[str] = Counter()
    for one in series.values():
        measured[one.kind] += one.size
    for kind in sorted(projected):
        rows.append([kind, f"{measured[kind] / 1e6:.2f}", f"{projected[kind] / 1e6:.2f}"])
    rows.append(["all", f"{measured.total() / 1e6:.2f}", f"{projected.total() / 1e6:.2f}"])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
