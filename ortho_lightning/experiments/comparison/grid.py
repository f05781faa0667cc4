"""The search of a grid of settings, one key after the other, and beyond its ends."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError

Settings = tuple[str, ...]
"""Overrides of a training's configuration."""
Grid = Mapping[str, Sequence[float | int | str]]
"""Values to try by the key of a training's configuration, in the order in which keys are searched."""


@dataclass(frozen=True)
class Choice:
    """The end of a search.

    Args:
        settings: the best override of every key.
        at_an_end: whether the last key's is the smallest or the largest number that was tried.
    """

    settings: Settings
    at_an_end: bool


def arm_grid(config: DictConfig, arm: str) -> Grid:
    """Return the grid of an arm, or the one for arms without their own.

    Raises:
        ConfigurationError: for a grid that is not lists of values by key.
    """
    grid = OmegaConf.to_container(config.grid, resolve=True)
    assert isinstance(grid, dict)
    own = grid.get(arm, grid.get("default"))
    if not isinstance(own, dict) or not own or not all(isinstance(values, list) and values for values in own.values()):
        raise ConfigurationError(
            f"grid.{arm}={own}: must be lists of values by key, as in grid.{arm}={{regularizer.weight:[0.1,1,10]}}"
        )
    return {str(key): values for key, values in own.items()}


def search(grid: Grid, extend: int) -> Generator[list[Settings], Mapping[Settings, float | None], Choice]:
    """Ask for the scores of settings, and return the best.

    Each key is searched with the best values of those before it. If the best is the smallest or the largest of several
    positive numbers, the next one beyond it, at the same ratio, is asked for as well.

    Args:
        grid: of the search.
        extend: further numbers of a key, at most.

    Yields:
        Settings; the scores of all of them must be sent, None for what failed.

    Raises:
        ConfigurationError: if all that was tried of a key failed.
    """
    chosen: Settings = ()
    beyond: float | None = None
    for key, values in grid.items():
        scores: dict[float | int | str, float] = {}
        tried, wanted = list(values), list(values)
        for further in range(extend + 1):
            sent = yield [(*chosen, f"{key}={value}") for value in wanted]
            for value, score in zip(wanted, sent.values(), strict=True):
                if score is not None:
                    scores[value] = score
            if not scores:
                raise ConfigurationError(f"{key}: every value of {tried} failed")
            best = max(scores, key=lambda value: scores[value])
            beyond = _beyond(tried, best)
            if beyond is None or further == extend:
                break
            tried, wanted = [*tried, beyond], [beyond]
        chosen = (*chosen, f"{key}={best}")
    return Choice(chosen, beyond is not None)


def _beyond(tried: Sequence[float | int | str], best: float | int | str) -> float | None:
    """Return the number next to the best one at an end of those tried; None if it is at none."""
    numbers = sorted(value for value in tried if not isinstance(value, str))
    if len(numbers) < 2 or len(numbers) < len(tried) or numbers[0] <= 0:
        return None
    if best == numbers[0]:
        return float(f"{numbers[0] ** 2 / numbers[1]:.1g}")
    if best == numbers[-1]:
        return float(f"{numbers[-1] ** 2 / numbers[-2]:.1g}")
    return None
