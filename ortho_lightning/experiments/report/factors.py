"""Sentences, tables and figures about factors: what they bring, and what arms bring in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes

from ortho_lightning.experiments.comparison.factorial import Factorial, Replacement
from ortho_lightning.experiments.comparison.inference import FEWEST
from ortho_lightning.experiments.comparison.summary import Difference
from ortho_lightning.experiments.report.panel import HEIGHT, Drawer, Panel, side_by_side
from ortho_lightning.experiments.report.style import Style, Theme, short, styles
from ortho_lightning.experiments.report.svg import png
from ortho_lightning.experiments.report.table import MISSING, Table, estimate, interval, number

_WIDTH = 3.0  # inches of a panel


def sentences(replacements: Sequence[Replacement], baseline: str) -> Iterator[str]:
    """Say what each factor brings, and what the arms bring in its place."""
    for rows in _by_factor(replacements):
        factor, brings = rows[0].factor, rows[0].brings
        if brings.low_holm is None:
            yield f"{factor} brings {brings.mean:+.2f} points; there are too few seeds to judge that."
            continue
        effect = f"{brings.mean:+.2f} points (corrected interval {brings.low_holm:+.2f} to {brings.high_holm:+.2f})"
        if rows[0].share is None:
            found = "lowers the accuracy of" if (brings.high_holm or 0.0) < 0 else "was not shown to help"
            yield f"{factor} {found} {baseline}, {effect}, so there is nothing to replace."
            continue
        arms = ", ".join(f"{one.arm} {_gain(one)}" for one in rows)
        yield f"{factor} brings {baseline} {effect}; without it, {arms}."


def notes(factorial: Factorial) -> Iterator[str]:
    """Return the limits that a reader must know."""
    for arm in factorial.incomplete:
        yield f"{arm} finished no seed in every combination of the factors, so nothing is said of it in their place."


def replacements(found: Sequence[Replacement], baseline: str, confidence: float) -> Table:
    """Return what each arm brings in place of each factor, one row per factor and arm."""
    rows = [
        [
            one.factor,
            one.arm,
            str(one.gains.n),
            *(_corrected(effect) for effect in (one.brings, one.gains)),
            MISSING if one.share is None else f"{100 * one.share:.0f}%",
            *(_corrected(effect) for effect in (one.instead, one.beside)),
        ]
        for one in found
    ]
    headings = [
        *("factor", "arm", "seeds", f"factor with {baseline}", "arm without the factor", "share of the factor"),
        *("arm instead of the factor", "arm with the factor"),
    ]
    legend = [
        "In points of test accuracy, each the mean over the combinations of the other factors, paired by seed. "
        f"Factor with {baseline}: with the factor minus without it. Arm without the factor: the arm minus {baseline}, "
        f"both without it. Arm instead of the factor: the arm without it minus {baseline} with it. Arm with the "
        f"factor: the arm minus {baseline}, both with it. The share is the second of these divided by the first, where "
        "the first was shown to be positive.",
        f"In brackets: {100 * confidence:g}% intervals over seeds, with at least {FEWEST} of them, corrected by Holm: "
        "those of the factors for their number, the others for all rows of the column.",
    ]
    return Table("replacements", "In place of other regularizers", headings, rows, legend)


def combinations(factorial: Factorial, confidence: float) -> Table:
    """Return the accuracies of a factorial, one row per combination of the factors and one column per arm."""
    arms = list(factorial.accuracies)
    rows = [
        [factorial.text(cell), *(estimate(factorial.accuracy(arm, cell, confidence)) for arm in arms)]
        for cell in factorial.cells
    ]
    legend = [
        f"Test accuracy in percent with its {100 * confidence:g}% interval over all finished seeds of the combination."
    ]
    return Table("combinations", "Every combination of the factors", ["factors", *arms], rows, legend)


def panels(found: Sequence[Replacement]) -> list[Panel]:
    """Return a panel for each factor: what it brings, and what the arms bring without it."""
    drawn = styles(list(dict.fromkeys(one.arm for one in found)), None)
    return [
        Panel(
            f"In place of {rows[0].factor}",
            f"What {rows[0].factor} and, without it, each arm add to the test accuracy, with corrected intervals",
            _drawer([(rows[0].factor, Style(None), rows[0].brings), *((r.arm, drawn[r.arm], r.gains) for r in rows)]),
            left=0.33,
        )
        for rows in _by_factor(found)
    ]


def factors_png(found: Sequence[Replacement]) -> bytes | None:
    """Draw the panels beside each other as a PNG on white; None without factors."""
    drawn = panels(found)
    return png(side_by_side(drawn), (_WIDTH * len(drawn), HEIGHT)) if drawn else None


def _by_factor(found: Sequence[Replacement]) -> list[list[Replacement]]:
    names = dict.fromkeys(one.factor for one in found)
    return [[one for one in found if one.factor == name] for name in names]


def _drawer(effects: Sequence[tuple[str, Style, Difference]]) -> Drawer:
    def draw(axis: Axes, theme: Theme) -> None:
        for place, (_, style, one) in enumerate(effects):
            colour = style.colour(theme)
            if one.low_holm is not None and one.high_holm is not None:
                axis.plot([one.low_holm, one.high_holm], [place] * 2, color=colour, linewidth=2)
            axis.plot(one.mean, place, style.marker, color=colour, markersize=6)
        axis.axvline(0, color=theme.text, linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(effects)), [short(name) for name, _, _ in effects])
        axis.set_ylim(len(effects) - 0.5, -0.5)
        axis.grid(axis="x", linewidth=0.5)
        axis.set_xlabel("gain over neither (points)")

    return draw


def _corrected(one: Difference) -> str:
    return interval(one.mean, one.low_holm, one.high_holm, sign="+")


def _gain(one: Replacement) -> str:
    share = "" if one.share is None else f", {100 * one.share:.0f}% of it"
    return f"brings {number(one.gains.mean, sign='+')} ({_ends(one.gains)}{share})"


def _ends(one: Difference) -> str:
    return f"{number(one.low_holm, sign='+')} to {number(one.high_holm, sign='+')}"
