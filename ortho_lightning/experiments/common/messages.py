"""Messages of other packages on one line."""

from __future__ import annotations

_NOISE = ("full_key:", "object_type=", "reference_type=")  # OmegaConf's: the message has named the key already
_LAST = "Config search path:"  # Hydra's: folders of the package


def one_line(text: str) -> str:
    r"""Return a message of several lines as sentences on one line, its indented lines as a list.

    Example:
        >>> one_line("Could not find 'data/shape'\n\nAvailable options in 'data':\n\tdigits\n\tshapes")
        "Could not find 'data/shape'. Available options in 'data': digits, shapes"
    """
    joined, listing = "", False
    for line in text.splitlines():
        part, indented = line.strip(), line.startswith(("\t", "  "))
        if part.startswith(_LAST):
            break
        if not part or part.startswith(_NOISE):
            continue
        if joined:
            joined += ", " if listing and indented else " " if joined.endswith((".", ":", ",", ";")) else ". "
        joined += part
        listing = indented
    return joined
