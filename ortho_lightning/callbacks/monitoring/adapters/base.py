"""Contents for loggers beyond scalars, and the adapter that each kind of logger specializes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ortho_lightning.tables import markdown_table

if TYPE_CHECKING:
    import numpy as np

Cell: TypeAlias = str | int | float | None


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


Layout: TypeAlias = Mapping[str, Sequence[Chart]]  # charts by the title of their section


@dataclass(frozen=True)
class Histogram:
    """Values counted in fixed bins.

    Args:
        edges: of the bins, from low to high: one more than there are bins.
        counts: how many values each bin holds.
        min, max, total, total_squares: of the values themselves.
    """

    edges: Sequence[float]
    counts: Sequence[float]
    min: float
    max: float
    total: float
    total_squares: float


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under headings.

    Args:
        columns: the format of each column's cells in a text, such as ``"{:.2f}°"``, by the column's heading.
        rows: a cell for each column; None where it is not known yet.
    """

    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """Return the table in Markdown.

        Example:
            >>> print(Table({"layer": "{}", "floor": "{:.2f}"}, [["net.0", 0.125], ["net.1", None]]).markdown())
            | layer | floor         |
            |-------|---------------|
            | net.0 | 0.12          |
            | net.1 | not known yet |
        """
        formats = self.columns.values()
        cells = [
            ["not known yet" if cell is None else form.format(cell) for form, cell in zip(formats, row, strict=True)]
            for row in self.rows
        ]
        return markdown_table([list(self.columns), *cells])


class Adapter:
    """Adapter of any Lightning logger, which takes hyperparameters; subclasses override what their kind can take.

    An adapter is made for each use, so it keeps nothing. Its methods are called on the first process only, and give
    what they get to ``self.logger``. Scalars need no adapter: Lightning's loggers take them themselves.

    Args:
        logger: of the Trainer.

    Example:
        :func:`~ortho_lightning.callbacks.monitoring.adapters.register` has one.
    """

    takes_pictures = False
    """Whether figures are drawn for it, which takes time."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    @staticmethod
    def serves(logger: Any) -> bool:
        """Return whether the logger is of this adapter's kind; the first adapter that serves a logger gets it."""
        return True

    def histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """Take a histogram, of a layer's angles or of a spectrum."""

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Take a figure, ``(height, width, 3)`` in uint8; called from a thread that draws while training goes on."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Take a text in Markdown."""

    def table(self, tag: str, table: Table, step: int) -> None:
        """Take a table: by default as a text."""
        self.text(tag, table.markdown(), step)

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


def is_made_by(logger: Any, name: str) -> bool:
    """Return whether a logger is one of Lightning's, or of a subclass, by the class's name, from either package.

    Nothing is imported, and no experiment begins, as it would if the logger were asked for it.
    """
    modules = ("pytorch_lightning.loggers.", "lightning.pytorch.loggers.")
    return any(base.__name__ == name and base.__module__.startswith(modules) for base in type(logger).__mro__)
