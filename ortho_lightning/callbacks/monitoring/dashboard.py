"""The arrangement of the scalars in charts, the table of the layers and the progress bar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring import angles, loggers
from ortho_lightning.callbacks.monitoring.adapters import Chart, Layout, Table
from ortho_lightning.callbacks.monitoring.arguments import Kind
from ortho_lightning.layers.filters import Layer

ON_THE_BAR = ("total_loss", "penalty")
ANGLE_ON_THE_BAR: Mapping[Kind, str] = {"filter": "angle_std", "response": "response_angle_std"}


class HasCharts(Protocol):
    """Callback whose scalars are arranged in charts."""

    name: str

    def chart_sections(self) -> Mapping[str, list[Chart]]:
        """Return the charts by the title of their section."""


def log_layout_once(trainer: Any, callback: HasCharts) -> None:
    """Give the loggers the charts of all callbacks, if ``callback`` is the first of them."""
    sections = [other for other in trainer.callbacks if callable(getattr(type(other), "chart_sections", None))]
    sections = sections or [callback]  # another callback may forward its hooks to this one
    if sections[0] is callback:
        loggers.log_layout(trainer, layout([section.chart_sections() for section in sections]))


def layout(of_callbacks: Sequence[Mapping[str, list[Chart]]]) -> Layout:
    """Return the charts of the user's own accuracies and losses, and those of each callback."""
    sections: dict[str, list[Chart]] = {}
    for charts in of_callbacks:
        for name, own in charts.items():
            sections.setdefault(name, []).extend(own)
    others = rf"(?!({'|'.join(map(re.escape, sections))})/)"  # the user's own names, whatever they are
    task = [Chart("accuracy", (f"{others}.*acc.*",)), Chart("loss of the task", (f"{others}.*loss.*",))]
    return {"task": task, **sections}


def angle_charts(name: str, layers: Sequence[str], kinds: Sequence[Kind]) -> list[Chart]:
    """Return the charts of a callback's angles, the layers from input to output."""
    of_filters = [
        Chart("angle, mean ± std", (f"{name}/angle_mean", f"{name}/angle_lower", f"{name}/angle_upper"), True),
        Chart("angle std by layer, 1 = random", _by_layer(name, "spread_ratio", layers)),
        Chart("largest |cos|", _by_layer(name, "max_abs_cos", layers)),
    ]
    band = tuple(f"{name}/response_angle_{line}" for line in ("mean", "lower", "upper"))
    of_responses = [
        Chart("response angle, mean ± std", band, True),
        Chart("response angle std by layer", _by_layer(name, "response_angle_std", layers)),
    ]
    return (of_filters if "filter" in kinds else []) + (of_responses if "response" in kinds else [])


def spectrum_charts(name: str, layers: Sequence[str]) -> list[Chart]:
    """Return the charts of a callback's spectra, the layers from input to output."""
    return [
        Chart(f"{title} by layer", _by_layer(name, key, layers))
        for key, title in (
            ("stable_rank", "stable rank"),
            ("effective_rank", "effective rank"),
            ("largest_singular_value", "largest singular value"),
            ("smallest_singular_value", "smallest singular value"),
            ("dead_filters", "dead filters"),
        )
    ]


def loss_chart(name: str) -> Chart:
    """Return the chart of the loss and its parts."""
    return Chart("loss = task + penalty", (f"{name}/task_loss", f"{name}/penalty_loss", f"{name}/total_loss"))


def penalty_charts(name: str) -> list[Chart]:
    """Return the charts of a callback's penalty and its weight."""
    return [
        Chart("penalty", (f"{name}/penalty", f"{name}/penalty_floor")),
        Chart("penalty weight", (f"{name}/weight",)),
    ]


def _by_layer(name: str, key: str, layers: Sequence[str]) -> tuple[str, ...]:
    return tuple(re.escape(f"{name}/{key}/{layer}") for layer in layers)


def layer_table(layers: Mapping[str, Layer]) -> Table:
    """Return the layers, and the references to compare their angles with."""
    counts = dict.fromkeys(("layer", "groups", "k", "d", "pairs"), "{}")
    columns = {**counts, "Welch floor (rms cosine)": "{:.4f}", "std of random directions": "{:.2f}°"}
    rows: list[list[str | int | float | None]] = []
    for name, module in layers.items():
        kernel = angles.current_filters(module)
        if kernel is None:
            rows.append([name, *[None] * (len(columns) - 1)])
            continue
        groups, k, d = kernel.shape
        rows.append([name, groups, k, d, groups * k * (k - 1) // 2, OF.welch_floor(k, d), OF.null_std(d)])
    return Table(columns, rows)


def log_step(
    trainer: Any, name: str, scalars: Mapping[str, float], step: int | None = None, moved: Kind = "filter"
) -> None:
    """Log scalars under a callback's name, and put those to watch on the progress bar, whichever it is.

    Args:
        trainer: whose loggers get them.
        name: prefix of the logged names.
        scalars: by name; nothing is logged where there are none.
        step: the x axis; None: now.
        moved: the kind of angle for the bar: the one that the penalty moves. The other one, where it is not measured.
    """
    if not scalars:
        return
    # the dictionary that bars read; log(prog_bar=True) would have a module copy, reduce and keep the values as well
    measured = [key for key in (ANGLE_ON_THE_BAR[moved], *ANGLE_ON_THE_BAR.values()) if key in scalars]
    shown = [*(key for key in ON_THE_BAR if key in scalars), *measured[:1]]
    trainer.progress_bar_metrics.update({f"{name}/{key}": scalars[key] for key in shown})
    loggers.log_scalars(trainer, {f"{name}/{key}": value for key, value in scalars.items()}, step)
