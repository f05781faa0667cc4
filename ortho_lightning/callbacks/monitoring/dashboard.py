"""What makes the logs explain themselves: the arrangement of the scalars, the table of the layers, the progress bar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring import angles
from ortho_lightning.callbacks.monitoring.adapters import Chart, Layout
from ortho_lightning.tables import markdown_table

ON_THE_BAR = ("total_loss", "penalty", "angle_std")


def layout(names: Mapping[str, Sequence[str]]) -> Layout:
    """Charts of the logged scalars, for each callback's name and the layers it selects, from input to output."""
    others = rf"(?!({'|'.join(map(re.escape, names))})/)"  # the user's own names, whatever they are
    sections = {"task": [Chart("accuracy", (f"{others}.*acc.*",)), Chart("loss of the task", (f"{others}.*loss.*",))]}
    for name, layers in names.items():
        sections[name] = [
            Chart("loss = task + penalty", (f"{name}/task_loss", f"{name}/penalty_loss", f"{name}/total_loss")),
            Chart("angle, mean ± spread", (f"{name}/angle_mean", f"{name}/angle_lower", f"{name}/angle_upper"), True),
            Chart("spread by layer, 1 = random", _by_layer(name, "spread_ratio", layers)),
            Chart("largest |cos|", _by_layer(name, "max_abs_cos", layers)),
            Chart("penalty", (f"{name}/penalty", f"{name}/penalty_floor")),
            Chart("penalty weight", (f"{name}/weight",)),
        ]
    return sections


def _by_layer(name: str, key: str, layers: Sequence[str]) -> tuple[str, ...]:
    return tuple(re.escape(f"{name}/{key}/{layer}") for layer in layers)


def layer_table(layers: Mapping[str, nn.Module]) -> str:
    """What the layers are and what their angles are to be set against, as a Markdown table."""
    rows = [["layer", "groups", "k", "d", "pairs", "Welch floor (rms cosine)", "spread of random directions"]]
    for name, module in layers.items():
        kernel = angles.current_filters(module)
        if kernel is None:
            rows.append([name, *["not known yet"] * 6])
            continue
        groups, k, d = kernel.shape
        pairs = groups * k * (k - 1) // 2
        floor, spread = OF.welch_floor(k, d), OF.null_std(d)
        rows.append([name, str(groups), str(k), str(d), str(pairs), f"{floor:.4f}", f"{spread:.2f}°"])
    return markdown_table(rows)


def loss_scalars(trainer: Any, module: Any, outputs: Any, joined: Tensor | None) -> dict[str, float]:
    """The parts of a step's loss, from what ``training_step`` returned and from the penalty that joined it, if one did.

    None under manual optimization, where a step may have several losses, and of a step that was skipped.
    """
    total = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not module.automatic_optimization or not isinstance(total, Tensor):
        return {}
    # Lightning takes a loss of shape (1,) too, and has divided it
    total = total.detach().reshape(()) * trainer.accumulate_grad_batches
    penalty = torch.zeros_like(total) if joined is None else joined.to(total).reshape(())
    task, penalty, total = torch.stack([total - penalty, penalty, total]).tolist()
    return {"task_loss": task, "penalty_loss": penalty, "total_loss": total}


def show_on_bar(trainer: Any, name: str, scalars: Mapping[str, float]) -> None:
    """Put the figures to watch on the progress bar, whichever it is."""
    # the dictionary that bars read; log(prog_bar=True) would have a module copy, reduce and keep the values as well
    trainer.progress_bar_metrics.update({f"{name}/{key}": scalars[key] for key in ON_THE_BAR if key in scalars})
