"""Whitening in front of a faiss index; needs the extra "faiss"."""

from __future__ import annotations

import faiss
import numpy as np

from ortho_lightning.nn import Whitening


def to_faiss(whitening: Whitening) -> faiss.LinearTransform:
    r"""Return a linear transform :math:`A x + b` with :math:`A = P^\top` and :math:`b = -\beta\mu P`, float32.

    For cosines, normalize its output::

        index = faiss.IndexPreTransform(faiss.NormalizationTransform(k), faiss.IndexFlatIP(k))
        index.prepend_transform(to_faiss(whitening))

    Faiss subtracts the mean after the product: if the mean is much larger than the standard deviation, float32 loses
    digits. Whiten such vectors with the module.

    Args:
        whitening: fitted, on any device.

    Raises:
        NotFittedError: before a fit.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [1.0, 9.0], [3.0, 9.0]])
        >>> whitening = Whitening().fit(x)
        >>> bool(np.allclose(to_faiss(whitening).apply(x.numpy()), whitening(x).numpy(), atol=1e-6))
        True
    """
    d, k = whitening.fitted_shape
    projection = whitening.projection.double().cpu()
    offset = -(whitening.shift.double().cpu() @ projection)
    transform = faiss.LinearTransform(d, k, True)
    faiss.copy_array_to_vector(np.ascontiguousarray(projection.T.numpy(), dtype=np.float32).ravel(), transform.A)
    faiss.copy_array_to_vector(offset.numpy().astype(np.float32), transform.b)
    transform.is_trained = True
    transform.set_is_orthonormal()
    return transform
