"""Adapter for TensorBoard: histograms, figures, texts, the Custom Scalars tab and the HParams tab."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from ortho_lightning.callbacks.monitoring.adapters.base import Adapter, Histogram, Layout

if TYPE_CHECKING:
    import numpy as np


class TensorBoard(Adapter):
    """TensorBoard's writer, whichever package it comes from."""

    takes_pictures = True

    @staticmethod
    def serves(logger: Any) -> bool:
        """Return whether the logger writes to TensorBoard."""
        # asked of the class: Lightning's stand-ins, as in fast_dev_run, answer to every name
        return hasattr(type(getattr(logger, "experiment", None)), "add_histogram_raw")

    def histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """Write a histogram of fixed bins."""
        self.logger.experiment.add_histogram_raw(
            tag,
            min=histogram.min,
            max=histogram.max,
            num=int(sum(histogram.counts)),
            sum=histogram.total,
            sum_squares=histogram.total_squares,
            bucket_limits=list(histogram.edges[1:]),
            bucket_counts=list(histogram.counts),
            global_step=step,
        )

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Write a figure as an image."""
        self.logger.experiment.add_image(tag, pixels, step, dataformats="HWC")  # the writer queues what threads give it

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write a text."""
        self.logger.experiment.add_text(tag, markdown, step)

    def layout(self, layout: Layout) -> None:
        """Write the charts of the Custom Scalars tab."""
        self.logger.experiment.add_custom_scalars(
            {
                section: {
                    # the tags of lines are expressions for the beginning of a name, those of a band are names
                    chart.title: ["Margin", list(chart.tags)]
                    if chart.band
                    else ["Multiline", [f"{tag}$" for tag in chart.tags]]
                    for chart in charts
                }
                for section, charts in layout.items()
            }
        )

    def hyperparameters(
        self, values: Mapping[str, str | float], metrics: Mapping[str, str], shown: Container[str]
    ) -> None:
        """Write the columns of the HParams tab, and this run's values."""
        from tensorboard.plugins.hparams import summary_v2 as hparams
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        # Not the logger's log_hyperparams, which wants the metrics' values: these columns follow the scalars while the
        # run goes on. The folder tells runs with equal values apart.
        columns = [hparams.HParam(name) for name in values]
        judged = [hparams.Metric(tag, display_name=title) for tag, title in metrics.items()]
        table = hparams.hparams_config_pb(hparams=columns, metrics=judged)
        held = table.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(held.content)
        for column in content.experiment.hparam_infos:
            column.differs = column.name in shown  # TensorBoard shows five columns, those that differ first
        held.content = content.SerializeToString()
        writer = self.logger.experiment._get_file_writer()
        writer.add_summary(table)
        writer.add_summary(hparams.hparams_pb(dict(values), trial_id=str(self.logger.log_dir)))
