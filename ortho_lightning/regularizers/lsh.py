"""The LSH penalty as a regularizer: in the batch, on random directions, or in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.lsh import Reduction, check_gamma, check_lsh_arguments, over_groups
from ortho_lightning.regularizers.base import Regularizer

# Stacking holds a second copy of the rows where memory is at its highest, and on two cores it pays for the smallest
# layers only: one product of 1024 rows and 64 filters took as long as its part of a batch.
_FEW_ON_CPU = 2**15
_FEW_ELSEWHERE = 2**20


class LSH(Regularizer):
    """:func:`~ortho_lightning.functional.lsh_penalty` on each layer.

    Args:
        lambda1: weight of the mean similarity squared, 0 or more.
        lambda2: weight of the mean squared similarity, 0 or more.
        gamma: slope of the smooth sign tanh(gamma z), above 0. Not scale-free: see ``normalize``.
        reduction: "mean" over the k(k-1) ordered pairs, or "sum" to the letter of the article. The sum grows like k^4
            and has ruined models at a weight of 0.001.
        probe: where the samples come from. "inputs": what the layer sees in the batch, as in the paper; biased by
            one-sided inputs (after a ReLU) and by repeated rows. "gaussian": ``max_samples`` isotropic random
            directions, drawn anew each step, 512 if ``max_samples`` is None; unbiased. "exact": their limit,
            (2 / pi) arcsin c, no samples at all.
        normalize: "rms" divides each filter's outputs by their root mean square first, so that gamma means the same
            for every layer; None: as in the article.
        max_samples: rows used for the estimate, spread evenly over the batch and the map, at other places in each
            image; None: all rows. The default is the least of those tried that keeps the cosine between the gradients
            on the filters, from the sample and from all rows, at 0.9 in every layer, with a peak memory of a step
            within 2% of that without penalty. On a ResNet-18 (CIFAR-10, batch 128, 20 convolutions, the first 50
            steps): 512 rows 0.91 (worst layer 0.84) and 1.4% of memory, 768 rows 0.94 (0.90) and 1.9%, 1024 rows 0.96
            (0.94) and 2.8%.
        detach_inputs: True: the gradient reaches the filters only, not the layers below.

    Raises:
        ValueError: for a negative or non-finite lambda, a gamma that is not positive, or an unknown choice.
    """

    def __init__(
        self,
        lambda1: float = 100.0,
        lambda2: float = 1.0,
        gamma: float = 10.0,
        reduction: Reduction = "mean",
        probe: Literal["inputs", "gaussian", "exact"] = "inputs",
        normalize: Literal["rms"] | None = None,
        max_samples: int | None = 768,
        detach_inputs: bool = False,
    ) -> None:
        check_lsh_arguments(lambda1, lambda2, reduction)
        if gamma is None:
            raise ConfigurationError("gamma=None: the hard sign has no gradient to train with; the article uses 10")
        check_gamma(gamma)
        if probe not in ("inputs", "gaussian", "exact"):
            raise ConfigurationError(f"probe={probe!r}: must be 'inputs', 'gaussian' or 'exact'")
        if normalize not in (None, "rms"):
            raise ConfigurationError(f"normalize={normalize!r}: must be None or 'rms'")
        if max_samples is not None and max_samples < 2:
            raise ConfigurationError(
                f"max_samples={max_samples}: one row tells no angle; give 2 or more, or None for all"
            )
        if detach_inputs and probe != "inputs":
            raise ConfigurationError(f"detach_inputs=True: probe={probe!r} never reaches the inputs; leave it False")
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.gamma = gamma
        self.reduction = reduction
        self.probe = probe
        self.normalize = normalize
        self.max_samples = max_samples
        self.detach_inputs = detach_inputs
        self.observes = "outputs" if probe == "inputs" else "kernel"

    def __repr__(self) -> str:
        settings = ("lambda1", "lambda2", "gamma", "reduction", "probe", "normalize", "max_samples", "detach_inputs")
        return f"LSH({', '.join(f'{name}={getattr(self, name)!r}' for name in settings)})"

    def penalty(self, values: Tensor, *, seed: int = 0) -> Tensor:
        return self._penalties([values], [seed])[0]

    def penalties(self, values: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
        if getattr(self.penalty, "__func__", None) is not LSH.penalty:  # a subclass has a penalty of its own
            return super().penalties(values, seeds)
        return self._penalties(values, seeds)

    def _penalties(self, values: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
        if self.probe == "exact":
            settings = (self.lambda1, self.lambda2, self.reduction)
            return [OF.similarity_penalty(OF.lsh_similarity_exact(filters), *settings) for filters in values]
        outputs = [self._prepare(each, seed) for each, seed in zip(values, seeds, strict=True)]
        found: dict[int, Tensor] = {}
        for alike in _alike(outputs):
            stacked = torch.stack([outputs[i] for i in alike]) if len(alike) > 1 else outputs[alike[0]].unsqueeze(0)
            of_groups = OF.fast_lsh_penalties(stacked, self.lambda1, self.lambda2, self.gamma, self.reduction)
            found.update(zip(alike, over_groups(of_groups, self.reduction, dim=-1).unbind(), strict=True))
        return [found[i] for i in range(len(outputs))]

    def floor(self, values: Tensor) -> float | None:
        if self.probe == "exact":
            return 0.0
        groups, n, k = values.shape
        if self.probe == "gaussian":
            n, k = self._directions, values.shape[1]
        floor = OF.lsh_penalty_floor(n, k, self.lambda1, self.lambda2, self.reduction)
        return floor * groups if self.reduction == "sum" else floor

    def diagnostics(self, values: Tensor) -> dict[str, Tensor]:
        if self.probe != "inputs":
            return {}
        return {"active_fraction": OF.lsh_active_fraction(self._prepare(values, 0), self.gamma)}

    def statistics(self, values: Tensor) -> Tensor:
        return OF.lsh_statistics(self._prepare(values, 0), self.gamma)

    def penalty_from_statistics(self, statistics: Tensor) -> Tensor:
        similarity = OF.similarity_from_statistics(statistics)
        return OF.similarity_penalty(similarity, self.lambda1, self.lambda2, self.reduction)

    @property
    def has_statistics(self) -> bool:
        return self.normalize is None  # the root mean square of the joined batch is not known when signs are taken

    @property
    def _directions(self) -> int:
        return 512 if self.max_samples is None else self.max_samples

    def _prepare(self, values: Tensor, seed: int) -> Tensor:
        outputs = self._probe(values, seed) if self.probe == "gaussian" else values
        return OF.rms_normalize(outputs) if self.normalize == "rms" else outputs

    def _probe(self, kernel: Tensor, seed: int) -> Tensor:
        generator = torch.Generator(kernel.device).manual_seed(seed)
        shape = (self._directions, kernel.shape[-1])
        dtype = torch.promote_types(kernel.dtype, torch.float32)
        directions = torch.randn(shape, generator=generator, device=kernel.device, dtype=dtype)
        with torch.autocast(kernel.device.type, enabled=False):
            return directions @ kernel.to(dtype).mT


def _alike(outputs: Sequence[Tensor]) -> Iterable[list[int]]:
    """The places of outputs that are worth one batched product: of one shape, dtype and device, and few numbers.

    Stacking copies them, which pays while starting an operation costs more than the operation.
    """
    places: dict[Any, list[int]] = {}
    for i, each in enumerate(outputs):
        few = each.numel() <= (_FEW_ON_CPU if each.device.type == "cpu" else _FEW_ELSEWHERE)
        places.setdefault((each.shape, each.dtype, each.device) if few else i, []).append(i)
    return places.values()
