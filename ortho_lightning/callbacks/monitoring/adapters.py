"""Adapters for what one kind of logger takes beyond scalars."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Chart:
    """Chart of logged scalars.

    Args:
        title: short.
        tags: regular expressions that match whole names, in the order in which their lines are listed; of a band, the
            names of its middle, lower and upper line.
        band: draw a line with a band around it.
    """

    title: str
    tags: tuple[str, ...]
    band: bool = False


@dataclass(frozen=True)
class Histogram:
    """Values counted in fixed bins.

    Args:
        limits: the upper end of each bin.
        counts: how many values each holds.
        min, max, total, total_squares: of the values themselves.
    """

    limits: Sequence[float]
    counts: Sequence[float]
    min: float
    max: float
    total: float
    total_squares: float


Layout = Mapping[str, Sequence[Chart]]  # charts by the title of their section


class Adapter:
    """Adapter of any Lightning logger, which takes hyperparameters; subclasses override what their kind can take."""

    takes_pictures = False  # drawing takes time

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """Take a histogram, of a layer's angles or of a spectrum."""

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Take a figure, ``(height, width, 3)`` in uint8; called from a thread that draws."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Take a text in Markdown."""

    def layout(self, layout: Layout) -> None:
        """Take the layout of the scalars; given once a run."""

    def hyperparameters(
        self, values: Mapping[str, str | float], metrics: Mapping[str, str], shown: Container[str]
    ) -> None:
        """Take what the run is compared by.

        Args:
            values: by name; the same names in every run.
            metrics: the names of the scalars that judge the run, and what to call them.
            shown: the names to show first, where not all are.
        """
        self.logger.log_hyperparams(dict(values))


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
            bucket_limits=list(histogram.limits),
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


ADAPTERS: list[tuple[Callable[[Any], bool], type[Adapter]]] = [(TensorBoard.serves, TensorBoard)]


def adapter_for(logger: Any) -> Adapter:
    """Return the adapter of the logger's kind, or the one that any logger can have."""
    return next((adapter for serves, adapter in ADAPTERS if serves(logger)), Adapter)(logger)
