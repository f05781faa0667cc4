"""Adapter for Weights & Biases: histograms, figures, texts and tables, online or offline."""

from __future__ import annotations

import html
import io
from typing import Any

import numpy as np

from ortho_lightning.callbacks.monitoring.adapters.base import Adapter, Histogram, Table, is_made_by


class WeightsAndBiases(Adapter):
    """Lightning's ``WandbLogger``, which has the same x axis for all that it takes.

    Charts need no layout: the page arranges scalars by the parts of their names before the slashes. Hyperparameters
    become the run's configuration.
    """

    takes_pictures = True

    @staticmethod
    def serves(logger: Any) -> bool:
        """Return whether the logger is a ``WandbLogger``."""
        return is_made_by(logger, "WandbLogger")

    def histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """Log a histogram of fixed bins."""
        import wandb

        counted = (np.asarray(histogram.counts), np.asarray(histogram.edges))
        self._log(tag, wandb.Histogram(np_histogram=counted), step)

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Log a figure as an image; the run queues what threads give it."""
        import wandb

        self._log(tag, wandb.Image(pixels), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Log a text as a page of its own, as it stands: no kind of panel shows Markdown that a run logs."""
        import wandb

        page = f"<pre>{html.escape(markdown)}</pre>"
        self._log(tag, wandb.Html(io.StringIO(page), inject=False), step)

    def table(self, tag: str, table: Table, step: int) -> None:
        """Log a table that the page sorts and filters."""
        import wandb

        # cells that are not known yet make a column that takes them
        made = wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows], optional=True)
        self._log(tag, made, step)

    def _log(self, tag: str, value: Any, step: int) -> None:
        self.logger.log_metrics({tag: value}, step)  # any value that a run takes, with the x axis of the scalars
