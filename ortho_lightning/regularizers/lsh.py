"""The LSH penalty as a regularizer: in the batch, on random directions, or in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.lsh import Reduction, check_gamma, check_lsh_arguments
from ortho_lightning.regularizers.base import Regularizer, check_max_filters
from ortho_lightning.regularizers.probes import InputsProbe, PairPenalty, SampledProbe, make_probe
from ortho_lightning.regularizers.view import LayerView

_OPTIONS = (
    "lambda1",
    "lambda2",
    "gamma",
    "reduction",
    "probe",
    "normalize",
    "max_samples",
    "detach_inputs",
    "max_filters",
)


class LSH(Regularizer):
    """:func:`~ortho_lightning.functional.lsh_penalty` on each layer.

    Args:
        lambda1: weight of the mean similarity squared, 0 or more; 100 in the article. In the sweep of docs/sweep.md
            (``scripts/train.py -m regularizer.penalty.lambda1=0,1,10,100 regularizer.weight.share=...``), 100 was no
            better than 0. For the penalty on the batch at a share of 3, it gave a validation accuracy of 22.7, 35.0
            and 36.3% on CIFAR-10, the digits and the shapes, and 0 gave 54.3, 94.4 and 54.3%.
        lambda2: weight of the mean squared similarity, 0 or more.
        gamma: slope of the smooth sign tanh(gamma z), above 0. Not scale-free: see ``normalize``.
        reduction: "mean" over the k(k-1) ordered pairs, or "sum" as in the article. The sum grows like k^4
            and has ruined models at a weight of 0.001.
        probe: where the samples come from. "inputs": what the layer sees in the batch, as in the paper; biased by
            one-sided inputs (after a ReLU) and by repeated samples. "gaussian": ``max_samples`` isotropic random
            directions, drawn anew each step, 512 if ``max_samples`` is None; unbiased. "exact": their limit,
            (2 / pi) arcsin c, no samples at all.
        normalize: "rms" divides each filter's outputs by their root mean square first, so that gamma means the same
            for every layer; None: as in the article.
        max_samples: samples used for the estimate, spread evenly over the batch and the map, at other positions in each
            image; None: all. With the default the cosine between the gradients on the filters, from the sample and from
            all outputs, is 0.967 on average and 0.948 in the worst layer, at 1.9% more peak memory of a step; with 512
            samples 0.95 and 0.92, with 1024 0.98 and 0.96. (ResNet-18, CIFAR-10, batch 128, 20 convolutions, the first
            50 steps: ``scripts/benchmark.py measure=estimate data.root=PATH``.)
        detach_inputs: the gradient reaches the filters only, not the layers below.
        max_filters: filters of a layer that are compared in a step, others each time, so that the cost of a wide layer
            stops growing with its width; None: all. Needs ``reduction="mean"``.

    Raises:
        ConfigurationError: for a negative or non-finite lambda, a gamma that is not positive, or an unknown choice.
    """

    def __init__(
        self,
        lambda1: float = 0.0,
        lambda2: float = 1.0,
        gamma: float = 10.0,
        reduction: Reduction = "mean",
        probe: Literal["inputs", "gaussian", "exact"] = "inputs",
        normalize: Literal["rms"] | None = None,
        max_samples: int | None = 768,
        detach_inputs: bool = False,
        max_filters: int | None = None,
    ) -> None:
        check_lsh_arguments(lambda1, lambda2, reduction)
        if gamma is None:
            raise ConfigurationError("gamma=None: the hard sign has no gradient to train with; the article uses 10")
        check_gamma(gamma)
        check_max_filters(max_filters, reduction == "mean", f"reduction={reduction!r}")
        self._probe = make_probe(probe, max_samples, normalize, detach_inputs)
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.gamma = gamma
        self.reduction = reduction
        self.probe = probe
        self.normalize = normalize
        self.max_samples = max_samples
        self.detach_inputs = detach_inputs
        self.max_filters = max_filters
        self.sampling = self._probe.sampling

    def __repr__(self) -> str:
        return f"LSH({', '.join(f'{name}={getattr(self, name)!r}' for name in _OPTIONS)})"

    @property
    def _pairs(self) -> PairPenalty:
        return PairPenalty(self.lambda1, self.lambda2, self.gamma, self.reduction)

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer."""
        return self._probe.penalties([layer], self._pairs)[0]

    def penalties(self, layers: Sequence[LayerView]) -> list[Tensor]:
        """Return the penalties of several layers, which share products where they are small."""
        return self._probe.penalties(layers, self._pairs)

    def floor(self, layer: LayerView) -> float | None:
        """Return what the penalty reads for orthogonal filters with so many samples."""
        return self._probe.floor(layer, self._pairs)

    def diagnostics(self, layer: LayerView) -> dict[str, Tensor]:
        """Return the share of outputs at which the smooth sign has a slope, where inputs are the probe."""
        if not isinstance(self._probe, InputsProbe):
            return {}
        return {"active_fraction": OF.lsh_active_fraction(self._probe.normalized(layer), self.gamma)}

    def statistics(self, layer: LayerView) -> Tensor:
        """Return the sums over samples that the similarity is made of."""
        assert isinstance(self._probe, SampledProbe)
        return OF.lsh_statistics(self._probe.normalized(layer), self.gamma)

    def penalty_from_statistics(self, statistics: Tensor) -> Tensor:
        """Return the penalty of the joined batch."""
        similarity = OF.similarity_from_statistics(statistics)
        return OF.similarity_penalty(similarity, self.lambda1, self.lambda2, self.reduction)

    @property
    def has_statistics(self) -> bool:
        """False with ``normalize="rms"``: the joined batch's root mean square is not known when signs are taken."""
        return self.normalize is None
