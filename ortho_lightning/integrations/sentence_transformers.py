"""Whitening as the last module of a SentenceTransformer; needs the extra "sentence-transformers"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers.util import load_file_path
from torch import Tensor, nn

from ortho_lightning.errors import DataError
from ortho_lightning.nn import Whitening

_FILE = "whitening.safetensors"


class SentenceWhitening(nn.Module):
    """A module that whitens the sentence vectors of a SentenceTransformer.

    ``save_pretrained`` saves it with the model, and ``SentenceTransformer(path)`` loads it if this package is
    installed. sentence-transformers needs ``trust_remote_code=True``, because the module is not one of its own.

    Args:
        whitening: fitted on vectors of the model, as ``model.encode`` returns them.

    Example::

        whitening = Whitening(n_components=256, beta=0.0, gamma=0.0).fit(model.encode(sentences))
        model.append(SentenceWhitening(whitening))
        model.save_pretrained("small")
    """

    def __init__(self, whitening: Whitening) -> None:
        super().__init__()
        self.whitening = whitening

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whiten ``features["sentence_embedding"]``."""
        features["sentence_embedding"] = self.whitening(features["sentence_embedding"])
        return features

    def get_embedding_dimension(self) -> int:
        """Return the size of a whitened vector."""
        return self.whitening.fitted_shape[1]

    get_sentence_embedding_dimension = get_embedding_dimension  # its name in sentence-transformers before 5.4

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write ``whitening.safetensors`` into the module's folder."""
        self.whitening.save(Path(output_path) / _FILE)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> SentenceWhitening:
        """Load a saved module, from a folder or from a model on a hub.

        Raises:
            DataError: for a file that is missing or damaged.
        """
        path = load_file_path(
            model_name_or_path,
            _FILE,
            subfolder=subfolder,
            token=token,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
        )
        if path is None:
            raise DataError(f"{Path(model_name_or_path, subfolder, _FILE)} does not exist")
        return cls(Whitening.load(path))
