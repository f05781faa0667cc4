"""Measures of ``ortho-benchmark``: training steps, the sampled estimate, and the speed of the data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.data import CIFAR10DataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import machine
from ortho_lightning.experiments.cost import estimate, steps
from ortho_lightning.experiments.cost.arms import check_arm
from ortho_lightning.experiments.cost.cases import Case
from ortho_lightning.experiments.cost.figures import save_sweep_figure
from ortho_lightning.files import write_json
from ortho_lightning.tables import markdown_table


def measure_steps(config: DictConfig, folder: Path) -> str:
    """Measure time and memory of every arm in every case; return a table, and draw what is swept."""
    arms = list(config.arms)
    if arms[:1] != ["none"]:
        raise ConfigurationError(f"arms={arms}: the first must be none, which the others are compared with")
    if config.rounds < 1:
        raise ConfigurationError(f"rounds={config.rounds}: must be 1 or more")
    for arm in arms:
        check_arm(arm)
    cases = [Case(*case) for case in product(config.networks, config.batch_sizes, config.resolutions, config.widths)]
    for case in cases:
        case.check()
    options: dict[str, Any] = OmegaConf.to_container(config.trainer)  # type: ignore[assignment]
    costs: list[steps.CaseCost] = []
    for number, case in enumerate(cases, start=1):
        print(f"[{number}/{len(cases)}] {case} ...", flush=True)
        costs += steps.measure(case, arms, config.rounds, options, config.compile)
        found = {"machine": machine(), "compiled": config.compile, "rows": [asdict(cost) for cost in costs]}
        write_json(folder / "steps.json", found)
    save_sweep_figure(folder / "steps.png", costs)
    return _steps_table(costs)


def _steps_table(costs: list[steps.CaseCost]) -> str:
    lines = [["network", "batch", "pixels", "width", "arm", "step (ms)", "ratio", "CPU time ratio", "penalty (ms)"]]
    lines[0] += ["two products (ms)", "peak (MB)", "peak ratio"]
    for cost in costs:
        case = [cost.network, str(cost.batch_size), str(cost.resolution), str(cost.width), cost.arm]
        times = [f"{cost.step_ms:.0f}", _with_error(cost.ratio, cost.ratio_error, 3)]
        times += [_with_error(cost.cpu_ratio, cost.cpu_error, 3), _with_error(cost.own_ms, cost.own_error, 1)]
        limit = "-" if cost.limit_ms is None else f"{cost.limit_ms:.1f}"
        lines.append([*case, *times, limit, f"{cost.peak_mb:.0f}", f"{cost.peak_ratio:.3f}"])
    return markdown_table(lines)


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    return "-" if value is None or error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def measure_estimate(config: DictConfig, folder: Path) -> str:
    """Compare the sampled penalty and its gradient with those of all samples; return a table."""
    if config.data.root is None:
        raise ConfigurationError("data.root=null: measure=estimate trains on CIFAR-10; give its folder or archive")
    found = estimate.measure(config.data.root, **config.estimate)
    write_json(folder / "estimate.json", {"machine": machine(), "rows": [asdict(each) for each in found]})
    lines = [["max_samples", "penalty less floor", "over all rows'", "cosine of gradients", "worst layer"]]
    for each in [*found[1:], found[0]]:
        values = (each.penalty, each.relative, each.cosine, each.smallest_cosine)
        lines.append(["all" if each.max_samples is None else str(each.max_samples), *(f"{x:.3f}" for x in values)])
    return markdown_table(lines)


def measure_data(config: DictConfig, folder: Path) -> str:
    """Measure how many augmented images of CIFAR-10's size are made in a second; return a sentence."""
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


MEASURES: dict[str, Callable[[DictConfig, Path], str]] = {
    "steps": measure_steps,
    "estimate": measure_estimate,
    "data": measure_data,
}
