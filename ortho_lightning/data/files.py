"""Where :func:`~ortho_lightning.files.whole_file` used to live."""

from ortho_lightning.files import whole_file

__all__ = ["whole_file"]
