"""The search of a grid of settings, one key after the other, and beyond its ends."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from ortho_lightning.errors import ConfigurationError

Settings = tuple[str, ...]
"""Overrides of a training's configuration."""
Grid = Mapping[str, Sequence[str]]
"""Values to try by the key of a training's configuration, in the order in which keys are searched."""


@dataclass(frozen=True)
class Choice:
    """The end of a search.

    Args:
        settings: the best override of every key.
        at_an_end: those of them that are the smallest or the largest number that was tried.
    """

    settings: Settings
    at_an_end: Settings


def arm_grid(config: DictConfig, arm: str) -> Grid:
    """Return the grid of an arm, or the one for arms without their own, as Hydra reads sweeps.

    Raises:
        ConfigurationError: for a grid that is not a list of sweeps.
    """
    own = config.grid.get(arm, config.grid.get("default"))
    problem = ConfigurationError(
        f"""grid.{arm}={own}: must be a list of keys with values, as in 'grid.{arm}=["regularizer.weight=0.1,1,10"]'"""
    )
    if not isinstance(own, ListConfig) or not own:
        raise problem
    try:
        sweeps = OverridesParser.create().parse_overrides([str(one) for one in own])
    except HydraException as error:
        raise problem from error
    grid: dict[str, list[str]] = {}
    for sweep in sweeps:
        values = sweep.sweep_string_iterator() if sweep.is_sweep_override() else [sweep.get_value_element_as_str()]
        grid[sweep.get_key_element()] = [str(value) for value in values]
    return grid


def search(grid: Grid, extend: int) -> Generator[list[Settings], Mapping[Settings, float | None], Choice]:
    """Ask for the scores of settings, and return the best.

    Each key is searched with the best values of those before it. If the best is the smallest or the largest of several
    positive numbers, the next one beyond it, at about the same ratio, is asked for as well.

    Args:
        grid: of the search.
        extend: further numbers of a key, at most.

    Yields:
        Settings; the scores of all of them must be sent, None for what failed.

    Raises:
        ConfigurationError: if all that was tried of a key failed.
    """
    chosen: Settings = ()
    at_an_end: Settings = ()
    for key, values in grid.items():
        scores: dict[str, float] = {}
        tried, wanted = list(values), list(values)
        for further in range(extend + 1):
            sent = yield [(*chosen, f"{key}={value}") for value in wanted]
            scores |= {value: score for value, score in zip(wanted, sent.values(), strict=True) if score is not None}
            if not scores:
                raise ConfigurationError(f"{key}: every value of {', '.join(tried)} failed")
            best = max(scores, key=lambda value: scores[value])
            beyond = _beyond(tried, best)
            if beyond is None or further == extend:
                break
            tried, wanted = [*tried, beyond], [beyond]
        chosen = (*chosen, f"{key}={best}")
        if beyond is not None:
            at_an_end = (*at_an_end, chosen[-1])
    return Choice(chosen, at_an_end)


def _beyond(tried: Sequence[str], best: str) -> str | None:
    """Return the number next to the best one at an end of those tried; None if it is at none."""
    try:
        numbers = sorted(float(value) for value in tried)
    except ValueError:
        return None
    if len(numbers) < 2 or numbers[0] <= 0 or float(best) not in (numbers[0], numbers[-1]):
        return None
    end = float(best)
    ratio = end / (numbers[1] if end == numbers[0] else numbers[-2])
    whole = all(number.is_integer() for number in numbers) and ratio > 1
    beyond = str(round(end * ratio)) if whole else f"{end * ratio:.2g}"
    return beyond if (float(beyond) > end) == (ratio > 1) and float(beyond) != end else None
