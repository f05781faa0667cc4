"""Adapter for MLflow: histograms, figures, texts and tables as artifacts of the run."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ortho_lightning.callbacks.monitoring.adapters.base import Adapter, Histogram, Table, is_made_by

if TYPE_CHECKING:
    import numpy as np


class MLflow(Adapter):
    """Lightning's ``MLFlowLogger``, with any tracking store.

    MLflow has no histograms: each is an image, among the run's charts, and its numbers are the artifact
    ``<tag>/<step>.json``, with the fields of :class:`~ortho_lightning.callbacks.monitoring.adapters.Histogram`. A text
    is the artifact ``<tag>.md``, a table ``<tag>.json``, which ``mlflow.load_table`` reads. Hyperparameters become the
    run's parameters. Charts need no layout: the page arranges scalars by the parts of their names before the slashes.
    """

    takes_pictures = True

    @staticmethod
    def serves(logger: Any) -> bool:
        """Return whether the logger is an ``MLFlowLogger``."""
        return is_made_by(logger, "MLFlowLogger")

    def histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """Store a histogram's numbers, and draw it."""
        from ortho_lightning import plots

        self.logger.experiment.log_dict(self.logger.run_id, asdict(histogram), f"{_allowed(tag)}/{step}.json")
        self.picture(tag, plots.histogram_picture(histogram.edges, histogram.counts, f"{tag}, step {step}"), step)

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Store a figure as an image of a step."""
        self.logger.experiment.log_image(self.logger.run_id, pixels, key=_allowed(tag), step=step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Store a text; a later one of the same name replaces it."""
        self.logger.experiment.log_text(self.logger.run_id, markdown, f"{_allowed(tag)}.md")

    def table(self, tag: str, table: Table, step: int) -> None:
        """Store a table; a later one of the same name replaces it."""
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        # not log_table, which would append to what a run has, and needs pandas, which mlflow-skinny lacks
        client, run_id, file = self.logger.experiment, self.logger.run_id, f"{_allowed(tag)}.json"
        client.log_dict(run_id, {"columns": list(table.columns), "data": [list(row) for row in table.rows]}, file)
        listed = json.loads(client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in listed:
            client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*listed, entry]))


def _allowed(tag: str) -> str:
    """Return the tag without the characters that MLflow rejects, as Lightning does with the names of scalars."""
    return re.sub("[^a-zA-Z0-9_/. -]+", "", tag)
