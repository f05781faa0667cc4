"""Coverage of the penalty in the models of torchvision, timm and transformers, by one training step of each.

``main`` writes a table, ``docs/zoo.md`` of the repository. The task loss is multiplied by 0, so that all gradients are
those of the penalty.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.experiments.common.provenance import versions
from ortho_lightning.experiments.subjects import Subject, find_subject, subjects
from ortho_lightning.files import write_text
from ortho_lightning.layers.filters import layer_filters, weight_parameters
from ortho_lightning.layers.selection import select_parts

PACKAGES = ("torchvision", "timm", "transformers")
_REASONS = {"no forward of": "never called", "ran, but no loss": "no loss depends on it"}
"""Reasons for which the callback names layers, by words of its warnings."""


@dataclass(frozen=True)
class Finding:
    """Result of one training step of a model.

    Attributes:
        name: of the model.
        size: edge of the square images; 0: other inputs.
        selected: layers that the defaults select.
        penalized: selected layers for which a penalty was logged.
        named: selected layers that the callback named because their forward did not run, or no loss depends on it.
        penalty: its value; NaN: nothing ran.
        faulty: penalized layers, those in ``zero`` and ``silent`` excepted, on whose weight the penalty's gradient is
            missing, zero or not finite.
        zero: penalized layers whose initial weights are zero: their filters have no direction, and the gradient is 0.
        silent: penalized layers whose outputs were all zero, so that they contain no information on the filters.
        error: why the step failed, which it should not; empty otherwise.
    """

    name: str
    size: int
    selected: list[str]
    penalized: list[str]
    named: list[str]
    penalty: float
    faulty: list[str]
    zero: list[str]
    silent: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> bool:
        """True if every selected layer was penalized, with a sound gradient, or named."""
        accounted = set(self.penalized) | set(self.named) == set(self.selected)
        sound = accounted and bool(self.penalized) and not self.faulty and 0 < self.penalty < float("inf")
        return sound and not self.error


class _PenaltyAlone(LightningModule):
    """A model with a task loss of 0; collects the names of layers with a sound gradient, and of those without outputs.

    Args:
        net: the model.
        subject: how it is asked.
    """

    def __init__(self, net: nn.Module, subject: Subject) -> None:
        super().__init__()
        self.net = net
        self.subject = subject
        self.sound: set[str] = set()
        self.zero = {name for name, layer in select_parts(self).items() if not bool(layer_filters(layer).any())}
        self.silent: set[str] = set()
        for name, part in select_parts(self).items():
            part.module.register_forward_hook(self._watch(name))

    def _watch(self, name: str) -> Any:
        def ran(module: nn.Module, args: Any, output: Any) -> None:
            bias = getattr(module, "bias", None)
            if isinstance(output, Tensor) and (bias is None or not bool(bias.any())) and not bool(output.any()):
                self.silent.add(name)

        return ran

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        answer = tree_leaves(_plain(self.subject.answer(self.net, batch)))
        values = [each for each in answer if isinstance(each, Tensor) and each.requires_grad]
        return 0.0 * torch.stack([torch.nan_to_num(each.float()).mean() for each in values]).sum()

    def on_after_backward(self) -> None:
        for name, layer in select_parts(self).items():
            gradients = [weight.grad for weight in weight_parameters(layer) if weight.grad is not None]
            if gradients and all(bool(g.isfinite().all()) and bool(g.count_nonzero()) for g in gradients):
                self.sound.add(name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def _plain(answer: Any) -> Any:
    """Return an answer as dictionaries, lists and tensors, also one of a class of its own."""
    return dict(answer) if isinstance(answer, dict) else answer


def model_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    return subjects("torchvision")


def examine(name: str) -> Finding:
    """Train a model, without pretrained weights, for one step with the callback's defaults.

    Raises:
        ConfigurationError: for a name that the zoo does not have.
    """
    subject = find_subject(name)
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
        module = _PenaltyAlone(subject.make(), subject)
        batch = subject.inputs()
        trainer.fit(module, DataLoader(cast("Dataset[Any]", [batch]), batch_size=None))
    metrics = trainer.callback_metrics
    selected = list(select_parts(module))
    penalized = [layer for layer in selected if f"ortho/penalty/{layer}" in metrics]
    messages = [str(warning.message) for warning in caught]
    warned = " ".join(message for message in messages if any(words in message for words in _REASONS))
    silent = [layer for layer in penalized if layer in module.silent - module.sound - module.zero]
    excused = module.sound | module.zero | set(silent)
    return Finding(
        name=name,
        size=subject.size,
        selected=selected,
        penalized=penalized,
        named=[layer for layer in selected if f"'{layer}'" in warned],
        penalty=float(metrics.get("ortho/penalty", math.nan)),
        faulty=[layer for layer in penalized if layer not in excused],
        zero=[layer for layer in penalized if layer in module.zero],
        silent=silent,
    )


def as_markdown(findings: Iterable[Finding], command: str, asked: int | None = None) -> str:
    """Return the table as a page, with the command and the versions of the packages.

    Args:
        findings: of the models so far.
        command: that makes the page.
        asked: how many models it is for; None: these.
    """
    findings = list(findings)
    missing = 0 if asked is None else asked - len(findings)
    stopped = f" The run was stopped before {missing} more." if missing else ""
    made_with = ", ".join(f"{package} {version}" for package, version in versions("timm", "transformers").items())
    passed = sum(finding.passed for finding in findings)
    lines = [
        "# The penalty in the models of torchvision, timm and transformers",
        "",
        f"Made by `{command}` with {made_with}.",
        "",
        "One training step of each model, with random weights and the defaults of `OrthogonalityCallback()`: all "
        "classification models of torchvision, a small member of each family of timm, and tiny models of "
        "transformers. The inputs are random (batch 2, seed 0), and the task's loss is multiplied by 0, so that the "
        'gradient is that of the penalty alone. "Sound" counts the penalized layers whose weight has a finite gradient '
        "that is not zero. The other layers are listed, with `*` for numbers. *Named*: a warning of the callback names "
        "them, because their forward is never called (attention uses the weights of its projections directly), or "
        "because no loss depends on their run. *Zero weights*: such filters have no direction, and no gradient until "
        "the task changes them. *Outputs*: all "
        "outputs of the layer were zero, for example after a scale that is initialized with zero, so there is nothing "
        "to compare.",
        "",
        f"{passed} of {len(findings)} models pass: every other layer is sound.{stopped}",
        "",
        "| model | image | selected | sound | named | zero weights or outputs | penalty | passes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in findings:
        sound = len(found.penalized) - len(found.faulty) - len(found.zero) - len(found.silent)
        faulty = f" (not: {', '.join(found.faulty)})" if found.faulty else ""
        row = (
            found.name,
            found.size or "",
            len(found.selected),
            f"{sound}{faulty}",
            _abridged(found.named),
            "; ".join(filter(None, (_abridged(found.zero), _outputs(found.silent)))),
            f"{found.penalty:.4g}",
            "yes" if found.passed else f"no{': ' + found.error if found.error else ''}",
        )
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def _abridged(names: Sequence[str]) -> str:
    patterns = [re.sub(r"\d+", "*", name) for name in names]
    counts = {pattern: patterns.count(pattern) for pattern in patterns}
    return ", ".join(f"{count} of `{pattern}`" for pattern, count in counts.items())


def _outputs(names: Sequence[str]) -> str:
    return f"outputs: {_abridged(names)}" if names else ""


def _examined(name: str) -> Finding:
    """Examine a model; one that fails is a finding too, with its reason."""
    try:
        return examine(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")[:300]
        return Finding(name, 0, [], [], [], math.nan, [], [], error=reason)


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine the models named on the command line, or all, and write the table."""
    parser = argparse.ArgumentParser(prog="scripts/zoo.py", description=__doc__)
    parser.add_argument(
        "models", nargs="*", help=f"names of models, with timm/ or transformers/; or {', '.join(PACKAGES)}; none: all"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/zoo.md"), help="where the table goes")
    options = parser.parse_args(arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    asked = options.models or PACKAGES
    findings = []
    names = [name for each in asked for name in (subjects(each) if each in PACKAGES else [each])]
    command = " ".join(["python scripts/zoo.py", *options.models])
    for name in names:
        findings.append(_examined(name))
        print(f"{name}: {'passes' if findings[-1].passed else findings[-1]}", flush=True)
        # after each, so that a run that is stopped leaves what it found
        write_text(options.output, as_markdown(findings, command, len(names)))
