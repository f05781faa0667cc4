"""The error for a pattern that matches no layer: what it does match, and what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ortho_lightning.errors import LayerSelectionError
from ortho_lightning.layers.candidates import Candidate, halves

_MOST = 3  # modules that a message names


def unmatched(
    selection: str, pattern: str | None, known: Sequence[Candidate], available: Sequence[str]
) -> LayerSelectionError:
    """Return the error for a pattern that matches no layer.

    Args:
        selection: the option and its value.
        pattern: for layers with filters; None: it was for the outputs of any module.
        known: the modules of the model.
        available: names of the layers that are selected by default.
    """
    reason = "" if pattern is None else _reason(pattern, known)
    suggestion = None if pattern is None else _meant(pattern, known)
    return LayerSelectionError(
        selection, available, suggestion, reason, [name for each in known for name in each.by_name]
    )


def _reason(pattern: str, known: Sequence[Candidate]) -> str:
    """Return what the pattern's half for the module matches, in sentences."""
    of_module, of_part = halves(pattern)
    matched = [each for each in known if fnmatchcase(each.name, of_module)]
    with_parts = [each for each in matched if any(each.parts)]
    if with_parts:
        how = "" if of_part is not None else ", each selected only by a pattern that names it, name:part"
        return " ".join(
            f"Module {each.name!r} matched; its parts are {', '.join(filter(None, each.parts))}{how}."
            for each in _one_a_class(with_parts)
        )
    own = [each for each in matched if not each.parts and any(True for _ in each.module.parameters(recurse=False))]
    if own and of_module != "*":
        return " ".join(
            f"Module {each.name!r} holds parameters, but its class {type(each.module).__name__} is not registered: "
            "ortho_lightning.layers.register says what its filters are."
            for each in _one_a_class(own)
        )
    if matched and of_module != "*":
        named = ", ".join(repr(each.name) for each in matched[:_MOST])
        return (
            f"Modules that matched, {named}, have no filters of their own, and a regularizer without sampling reads "
            "filters only. A penalty on outputs sets sampling = Sampling()."
        )
    return ""


def _one_a_class(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the first module of each class, at most three."""
    first = {type(each.module): each for each in reversed(found)}
    return list(reversed(first.values()))[:_MOST]


def _meant(pattern: str, known: Sequence[Candidate]) -> str | None:
    # users forget the attribute that holds their network, or name a block for its layers
    nearby = (f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
    return next((guess for guess in nearby if any(each.matching(guess) for each in known)), None)
