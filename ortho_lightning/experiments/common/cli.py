"""The start of every command: the folder of the configuration, and errors of one line for what a user can correct."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ortho_lightning.configuration import configuration_folder
from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.common.messages import one_line

A = TypeVar("A")
T = TypeVar("T")
Advice = Callable[[str], str | None]
"""Tells how to set a key that the configuration does not have; None: there is nothing to tell."""
_FULL = "HYDRA_FULL_ERROR"
_CORRECTABLE = (ConfigurationError, DataError, HydraException, OmegaConfBaseException)


def conf_dir() -> str:
    """Return the folder of the configuration, as Hydra takes it."""
    return str(configuration_folder())


def short_hash(text: Any) -> str:
    """Return eight characters for a command line: the same comparison finds its folder again."""
    return hashlib.sha256(str(text).encode()).hexdigest()[:8]


# for the configuration of compare; here, so that every process of a launcher has it
OmegaConf.register_new_resolver("short_hash", short_hash, replace=True)


def command(
    config_name: str, advice: Advice | None = None
) -> Callable[[Callable[[DictConfig], T]], Callable[[], None]]:
    """Make a task a command: a Hydra application that ends with one line for an error that a user can correct.

    ``HYDRA_FULL_ERROR=1`` shows the stack instead.

    Args:
        config_name: of the file in the folder of the configuration.
        advice: what to do about an override of a key that does not exist, in place of Hydra's advice; None for a key
            about which there is nothing better to say.
    """

    def decorate(task: Callable[[DictConfig], T]) -> Callable[[], None]:
        application = hydra.main(version_base="1.3", config_path=conf_dir(), config_name=config_name)(
            plain_errors(task)
        )

        @functools.wraps(task)
        def main() -> None:
            if os.environ.get(_FULL) == "1":
                application()
                return
            try:
                # so that Hydra raises what it finds wrong, where it would print several lines
                with _full_error("1"):
                    application()
            except _CORRECTABLE as error:
                _end(error, advice)

        return main

    return decorate


def plain_errors(task: Callable[[A], T]) -> Callable[[A], T]:
    """Make a task end with one line for an error that a user can correct; HYDRA_FULL_ERROR=1 shows the stack."""
    asked = os.environ.get(_FULL)  # before `command` sets it

    @functools.wraps(task)
    def wrapper(given: A) -> T:
        try:
            with _full_error(asked):
                return task(given)
        except _CORRECTABLE as error:
            if asked == "1":
                raise
            _end(error)

    return wrapper


def _end(error: Exception, advice: Advice | None = None) -> NoReturn:
    print(f"error: {plain_message(error, advice)}", file=sys.stderr)
    raise SystemExit(2) from None


def plain_message(error: Exception, advice: Advice | None = None) -> str:
    """Return the reason and the part of the configuration, without what Hydra wraps around a constructor's error.

    Args:
        error: of a composition or a constructor.
        advice: as in :func:`command`.
    """
    cause = error.__cause__
    if isinstance(error, InstantiationException):
        said, _, place = str(error).partition("\nfull_key: ")
        reason = str(cause) if isinstance(cause, ValueError) else said
        return one_line(f"{reason} (while making {place})" if place else reason)
    if isinstance(error, OverrideParseException):
        return one_line(f"{error.override}: {error}")
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException):
        said, _, how_to_add = str(error).partition("\n")
        typed = re.search("'(.+?)'", said)  # whole, where OmegaConf names the first part that does not exist
        better = _meant(cause) or (advice(typed.group(1)) if advice and typed else None)
        return one_line(f"{said}\n{cause}\n{better or how_to_add}")
    return one_line(str(error))


def _meant(error: OmegaConfBaseException) -> str | None:
    """The key that may have been meant by one that does not exist."""
    if not isinstance(error.parent_node, DictConfig):
        return None
    close = difflib.get_close_matches(str(error.key), map(str, error.parent_node), 1)
    return f"Did you mean '{close[0]}'?" if close else None


@contextlib.contextmanager
def _full_error(value: str | None) -> Iterator[None]:
    """Set Hydra's environment variable within; None: it is not there."""
    before = os.environ.get(_FULL)
    _set(value)
    try:
        yield
    finally:
        _set(before)


def _set(value: str | None) -> None:
    if value is None:
        os.environ.pop(_FULL, None)
    else:
        os.environ[_FULL] = value
