"""Coverage of the penalty in torchvision's classification models, by one training step of each.

``main`` writes a table, ``docs/zoo.md`` of the repository. The task loss is multiplied by 0, so that all gradients are
those of the penalty.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import versions
from ortho_lightning.files import whole_file
from ortho_lightning.layers.filters import layer_filters, weight_parameters
from ortho_lightning.layers.selection import select_layers

BATCH_SIZE = 2
_SMALL = 64
# Models that accept one image size only, or pool too much for smaller images.
_SIZES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56}


@dataclass(frozen=True)
class Finding:
    """Result of one training step of a model.

    Attributes:
        name: of the model.
        size: edge of the square images.
        selected: layers that the defaults select.
        penalized: selected layers for which a penalty was logged.
        named: selected layers that the callback named because their forward did not run.
        penalty: its value.
        faulty: penalized layers, those in ``zero`` excepted, on whose weight the penalty's gradient is missing, zero or
            not finite.
        zero: penalized layers whose initial weights are zero: their filters have no direction, and the gradient is 0.
    """

    name: str
    size: int
    selected: list[str]
    penalized: list[str]
    named: list[str]
    penalty: float
    faulty: list[str]
    zero: list[str]

    @property
    def passed(self) -> bool:
        """True if every selected layer was penalized, with a sound gradient, or named."""
        accounted = set(self.penalized) | set(self.named) == set(self.selected)
        return accounted and bool(self.penalized) and not self.faulty and 0 < self.penalty < float("inf")


class _PenaltyAlone(LightningModule):
    """A classifier with a task loss of 0; collects the names of layers with a sound gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.sound: set[str] = set()
        self.zero = {name for name, layer in select_layers(self).items() if not bool(layer_filters(layer).any())}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        answer = self.net(images)
        heads = [answer] if isinstance(answer, Tensor) else [head for head in answer if head is not None]
        return 0.0 * torch.stack([nn.functional.cross_entropy(head, labels) for head in heads]).sum()

    def on_after_backward(self) -> None:
        for name, layer in select_layers(self).items():
            gradients = [weight.grad for weight in weight_parameters(layer) if weight.grad is not None]
            if gradients and all(bool(g.isfinite().all()) and bool(g.count_nonzero()) for g in gradients):
                self.sound.add(name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def model_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def examine(name: str) -> Finding:
    """Train a model of torchvision, without pretrained weights, for one step with the callback's defaults.

    Raises:
        ConfigurationError: for a name that torchvision does not have.
    """
    if name not in model_names():
        raise ConfigurationError(f"model {name!r}: torchvision has {', '.join(model_names())}")
    size = _SIZES.get(name, _SMALL)
    callback = OrthogonalityCallback()
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    with isolate_rng(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        module = _PenaltyAlone(_build(name, size))
        batch = (torch.randn(BATCH_SIZE, 3, size, size), torch.arange(BATCH_SIZE))
        trainer.fit(module, DataLoader(cast("Dataset[Any]", [batch]), batch_size=None))
    metrics = trainer.callback_metrics
    selected = list(select_layers(module))
    penalized = [layer for layer in selected if f"ortho/penalty/{layer}" in metrics]
    warned = " ".join(str(warning.message) for warning in caught if "no forward of" in str(warning.message))
    return Finding(
        name=name,
        size=size,
        selected=selected,
        penalized=penalized,
        named=[layer for layer in selected if f"'{layer}'" in warned],
        penalty=metrics["ortho/penalty"].item(),
        faulty=[layer for layer in penalized if layer not in module.sound | module.zero],
        zero=[layer for layer in penalized if layer in module.zero],
    )


def _build(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = size
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # the default, without its warning
    return torchvision.models.get_model(name, weights=None, **options)


def as_markdown(findings: Iterable[Finding], command: str) -> str:
    """Return the table as a page, with the command and the versions of the packages."""
    findings = list(findings)
    made_with = ", ".join(f"{package} {version}" for package, version in versions().items())
    passed = sum(finding.passed for finding in findings)
    lines = [
        "# The penalty in torchvision's models",
        "",
        f"Made by `{command}` with {made_with}.",
        "",
        "One training step of each classification model, without weights, under `OrthogonalityCallback()` with its "
        f"defaults (histograms off): random images, batch {BATCH_SIZE}, seed 0, the task loss times 0, so that the "
        "gradient is the penalty's alone. "
        '"Sound" counts the penalized layers on whose weight it is finite and not zero. Layers whose '
        "forward is never called, as attention uses the weights of its projections without it, were named by the "
        "callback and are listed, with `*` for numbers; so are those that begin with weights of zero: such filters "
        "have no direction, and no gradient until the task gives them one.",
        "",
        f"{passed} of {len(findings)} models pass: every other layer is sound.",
        "",
        "| model | image | selected | sound | never called, named | zero weights | penalty | passes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in findings:
        sound = len(found.penalized) - len(found.faulty) - len(found.zero)
        faulty = f" (not: {', '.join(found.faulty)})" if found.faulty else ""
        row = (
            found.name,
            found.size,
            len(found.selected),
            f"{sound}{faulty}",
            _abridged(found.named),
            _abridged(found.zero),
            f"{found.penalty:.4g}",
            "yes" if found.passed else "no",
        )
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def _abridged(names: Sequence[str]) -> str:
    patterns = [re.sub(r"\d+", "*", name) for name in names]
    counts = {pattern: patterns.count(pattern) for pattern in patterns}
    return ", ".join(f"{count} of `{pattern}`" for pattern, count in counts.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine the models named on the command line, or all, and write the table."""
    parser = argparse.ArgumentParser(prog="scripts/zoo.py", description=__doc__)
    parser.add_argument("models", nargs="*", help="names of torchvision's models; none: all")
    parser.add_argument("--output", type=Path, default=Path("docs/zoo.md"), help="where the table goes")
    options = parser.parse_args(arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    findings = []
    for name in options.models or model_names():
        findings.append(examine(name))
        print(f"{name}: {'passes' if findings[-1].passed else findings[-1]}", flush=True)
    with whole_file(options.output) as path:
        path.write_text(as_markdown(findings, " ".join(["python scripts/zoo.py", *options.models])))
