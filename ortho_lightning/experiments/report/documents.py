"""The files of a comparison's report: a page for people, Markdown for a repository, tables for programs."""

from __future__ import annotations

from pathlib import Path

from ortho_lightning.experiments.comparison.gather import ComparedRuns
from ortho_lightning.experiments.comparison.measures import failure_of, finite, run_measures
from ortho_lightning.experiments.comparison.run_folder import RESULTS
from ortho_lightning.experiments.report.angles import compared_angles_png
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.factors import factors_png
from ortho_lightning.experiments.report.figures import accuracy_png
from ortho_lightning.experiments.report.markdown import markdown
from ortho_lightning.experiments.report.page import page
from ortho_lightning.files import whole_file, write_csv, write_json, write_text


def write_comparison(found: ComparedRuns, target: float | None) -> Comparison:
    """Write ``results.json`` and the report of a comparison into its folder.

    Args:
        found: the runs.
        target: the validation accuracy, in [0, 1], to which epochs are counted; None: one that every run reaches.

    Returns:
        What was written.
    """
    comparison = Comparison.of(found, target)
    write_json(found.folder / RESULTS, comparison.to_json())
    write_report(found.folder, comparison)
    return comparison


def write_report(folder: Path, comparison: Comparison) -> None:
    """Write ``report.html``, ``report.md``, ``results.csv``, ``accuracy.png``, ``angles.png`` and ``factors.png``.

    Each file is written whole or not at all. The same comparison gives the same bytes. There is no figure of what no
    run has.

    Args:
        folder: made if it does not exist.
        comparison: what is reported.
    """
    write_text(folder / "report.html", page(comparison))
    write_text(folder / "report.md", markdown(comparison))
    write_csv(folder / "results.csv", flat_runs(comparison))
    figures = {
        "accuracy.png": accuracy_png(comparison),
        "angles.png": compared_angles_png(comparison.summary),
        "factors.png": factors_png(comparison.replacements),
    }
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)  # that of an earlier report
        else:
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(figure)


def flat_runs(comparison: Comparison) -> list[dict[str, str | int | float | None]]:
    """Return the scalars of each run: accuracies in percent, epochs from 1; a failed run has its reason."""
    rows = []
    for run in comparison.runs:
        failure = failure_of(run)
        row: dict[str, str | int | float | None] = {
            "regularizer": run.regularizer,
            "seed": run.seed,
            "failure": failure,
        }
        if failure is None:
            row.update(run_measures(run, comparison.summary.target))
            row.update(step_ms=finite(run.step_ms), steps=finite(run.steps))
        rows.append(row)
    return rows
