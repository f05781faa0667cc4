"""The types of a configuration's values, checked against the signatures of what they are passed to."""

from __future__ import annotations

import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union

from omegaconf import DictConfig, ListConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError

_CHECKED = ("ortho_lightning.", "pytorch_lightning.", "torch.")  # targets; those of a user's own are not imported here
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_MISSING = "???"


def check_types(config: DictConfig) -> None:
    """Reject values of the wrong type in the parts of a configuration that name a ``_target_``, such as epochs "abc".

    Raises:
        ConfigurationError: naming the first such value, and what is allowed.
    """
    for place, part in _parts(OmegaConf.to_container(config, resolve=True), ""):
        hints = _hints(part["_target_"])
        for key in part:
            if key in hints:
                check_value(f"{place}{key}", part[key], hints[key])


def check_value(key: str, value: Any, hint: Any) -> None:
    """Reject a plain value that a type hint does not allow; whatever else is wrong is for the constructor to say.

    Args:
        key: of the value in the configuration.
        value: as the configuration holds it.
        hint: such as ``int | None``.

    Raises:
        ConfigurationError: naming key, value and what is allowed.
    """
    if isinstance(value, (str, bool, int, float)) and value != _MISSING and not _allows(hint, value):
        members = typing.get_args(hint) if _is_union(hint) else (hint,)
        words = " or ".join(_WORDS.get(one, getattr(one, "__name__", str(one))) for one in members)
        raise ConfigurationError(f"{key}={value}: must be {words}")


def is_list_of(kind: type, value: Any) -> bool:
    """Return whether a value of a configuration is a list of one type; true and false are no integers."""
    return isinstance(value, ListConfig) and all(type(one) is kind for one in value)


def _parts(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts with a ``_target_``, and where each stands, with a dot behind."""
    if not isinstance(node, dict):
        return
    if isinstance(node.get("_target_"), str):
        yield place, node
    for key, value in node.items():
        yield from _parts(value, f"{place}{key}.")


def _hints(target: str) -> dict[str, Any]:
    """The type hints of what a target is called with; none where they cannot be found."""
    if not target.startswith(_CHECKED):
        return {}
    try:
        found = pkgutil.resolve_name(target)
        return typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except (ImportError, AttributeError, NameError, TypeError):  # instantiating it tells what is wrong, if anything is
        return {}


def _allows(hint: Any, value: Any) -> bool:
    if _is_union(hint):
        return any(_allows(one, value) for one in typing.get_args(hint))
    origin = typing.get_origin(hint)
    kind = (int, float) if hint is float else origin or hint
    if origin is Literal or hint is Any:
        return True  # the constructor lists its choices
    if isinstance(value, bool) and kind in (int, (int, float)):
        return False  # true and false are integers to Python, but not to a reader
    try:
        return isinstance(value, kind)
    except TypeError:  # such as a protocol or a variable of types
        return True


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)
