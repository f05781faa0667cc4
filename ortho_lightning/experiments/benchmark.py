"""The benchmark: what the penalties cost, how good the sampled estimate is, and how fast batches are made."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.data import CIFAR10DataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir, plain_errors
from ortho_lightning.experiments.common.provenance import machine, save_provenance
from ortho_lightning.experiments.cost import estimate, steps
from ortho_lightning.files import whole_file, write_json
from ortho_lightning.tables import markdown_table

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
_SWEPT = {"batch_size": "batch size", "resolution": "pixels a side", "width": "width of the network"}


def measure_steps(config: DictConfig, folder: Path) -> str:
    """Time and memory of every arm in every case: a table, and a plot of what is swept."""
    arms = list(config.arms)
    if arms[:1] != ["none"]:
        raise ConfigurationError(f"arms={arms}: the first must be none, which the others are compared with")
    for name, value in (("rounds", config.rounds), ("steps", config.steps)):
        if value < 1:
            raise ConfigurationError(f"{name}={value}: must be 1 or more")
    for arm in arms:
        steps.check_arm(arm)
    cases = [
        steps.Case(*case) for case in product(config.networks, config.batch_sizes, config.resolutions, config.widths)
    ]
    for case in cases:
        case.check()
    options: dict[str, Any] = OmegaConf.to_container(config.trainer)  # type: ignore[assignment]
    rows: list[steps.Row] = []
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case} ...", flush=True)
        rows += steps.measure(case, arms, config.rounds, config.steps, options)
        write_json(folder / "steps.json", {"machine": machine(), "rows": [asdict(row) for row in rows]})
    save_plot(folder / "steps.png", rows)
    columns = ["network", "batch", "pixels", "width", "arm", "step (ms)", "ratio", "peak (MB)", "peak ratio"]
    shown = [columns]
    for row in rows:
        place = (row.network, str(row.batch_size), str(row.resolution), str(row.width), row.arm)
        figures = (f"{row.step_ms:.0f}", f"{row.ratio:.3f}", f"{row.peak_mb:.0f}", f"{row.peak_ratio:.3f}")
        shown.append([*place, *figures])
    return markdown_table(shown)


def save_plot(path: Path, rows: Sequence[steps.Row]) -> None:
    """The ratio over what is swept, a line an arm; nothing where less than two values of it were measured."""
    swept = [key for key in _SWEPT if len({getattr(row, key) for row in rows}) > 1]
    if len(swept) != 1 or len({row.network for row in rows}) > 1:
        return
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for number, arm in enumerate(dict.fromkeys(row.arm for row in rows)):
        own = [row for row in rows if row.arm == arm]
        values = [getattr(row, swept[0]) for row in own]
        axis.plot(values, [row.ratio for row in own], "o-", label=arm, color=_COLOURS[number % len(_COLOURS)])
        axis.set_xscale("log", base=2)
        axis.set_xticks(values, [str(value) for value in values])
    axis.set_xlabel(_SWEPT[swept[0]])
    axis.set_ylabel("step time / without penalty")
    axis.set_title(f"{rows[0].network}: cost of a training step", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def measure_estimate(config: DictConfig, folder: Path) -> str:
    """The sampled penalty and its gradient against those of all rows."""
    if config.data.root is None:
        raise ConfigurationError("data.root=null: measure=estimate trains on CIFAR-10; give its folder or archive")
    rows = estimate.measure(config.data.root, **config.estimate)
    write_json(folder / "estimate.json", {"machine": machine(), "rows": [asdict(row) for row in rows]})
    shown = [["max_samples", "penalty less floor", "over all rows'", "cosine of gradients", "worst layer"]]
    for row in [*rows[1:], rows[0]]:
        figures = (row.penalty, row.relative, row.cosine, row.smallest_cosine)
        shown.append(["all" if row.max_samples is None else str(row.max_samples), *(f"{x:.3f}" for x in figures)])
    return markdown_table(shown)


def measure_data(config: DictConfig, folder: Path) -> str:
    """Augmented images of CIFAR-10's size a second."""
    data = CIFAR10DataModule("unused", batch_size=config.data.batch_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50_000, 3, 32, 32), generator=generator).to(torch.uint8)
    data.splits = {"train": (images, torch.zeros(len(images), dtype=torch.long))}
    rates = []
    for epoch in range(config.rounds):
        began = time.perf_counter()
        for x, _, index in data.train_dataloader():
            data.prepare(data.augmented(x, index, epoch))
        rates.append(len(images) / (time.perf_counter() - began))
    median = sorted(rates)[len(rates) // 2]
    write_json(folder / "data.json", {"machine": machine(), "images_per_second": rates})
    return f"{median:,.0f} augmented images a second (median of {len(rates)} passes)"


MEASURES = {"steps": measure_steps, "estimate": measure_estimate, "data": measure_data}


def run(config: DictConfig) -> str:
    """Measure what ``config.measure`` asks for; write it under ``config.run_dir`` and return it as text."""
    if config.measure not in MEASURES:
        raise ConfigurationError(f"measure={config.measure!r}: there are {list(MEASURES)}")
    folder = Path(config.run_dir)
    save_provenance(config, folder)
    shown = MEASURES[config.measure](config, folder)
    with whole_file(folder / "report.md") as path:
        path.write_text(shown + "\n")
    return shown


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="benchmark")
@plain_errors
def main(config: DictConfig) -> None:
    # a Trainer a turn: what it says of itself would bury the figures
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    print("\n" + run(config))
    print(f"\nIn numbers in {config.run_dir}")
