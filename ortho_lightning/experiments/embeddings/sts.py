"""The STS experiment of ``ortho-whiten``: raw vectors, whitened, whitened and truncated, and tuned on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from ortho_lightning import functional as OF
from ortho_lightning.data.stsb import Pairs, STSEmbeddings
from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.common.option_types import check_value
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.embeddings.bootstrap import difference_interval
from ortho_lightning.files import write_csv, write_json, write_text
from ortho_lightning.functional import Moments
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.hyperparameters import Hyperparameters
from ortho_lightning.nn.vectors import moments_of
from ortho_lightning.plots.whitening import save_spectrum_figure
from ortho_lightning.search import SearchResult, search
from ortho_lightning.search.pairs import raw_cosines
from ortho_lightning.tables import markdown_table

LEGEND = """\
Spearman x 100 between cosine and score on the test pairs. Fitted on the sentences of all splits, without their scores;
on dev: beta, gamma and k chosen on the dev pairs alone. In brackets: 95% bootstrap intervals over the test pairs."""


@dataclass(frozen=True)
class EncoderScores:
    """Spearman's correlations, times 100, of one encoder's test pairs with one choice of hyper-parameters.

    Attributes:
        encoder: its name.
        chosen: "by hand" or "on dev".
        beta: of the whitening.
        gamma: of the whitening.
        n_components: k of the truncated vectors.
        raw: without whitening.
        whitened: with all components.
        whitened_and_cut: with the first k components.
        dev: on the dev pairs, if chosen there.
        whitened_low: end of the 95% interval of whitened - raw; None if not asked for.
        whitened_high: the other end.
        cut_low: end of the 95% interval of whitened_and_cut - raw; None if not asked for.
        cut_high: the other end.
    """

    encoder: str
    chosen: str
    beta: float
    gamma: float
    n_components: int
    raw: float
    whitened: float
    whitened_and_cut: float
    dev: float | None = None
    whitened_low: float | None = None
    whitened_high: float | None = None
    cut_low: float | None = None
    cut_high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields for a file, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def run_experiment(config: DictConfig) -> None:
    """Print the table of every encoder in ``config.data``, with retrieval if asked for; write ``config.run_dir``."""
    check_value("bootstrap", config.bootstrap, int)
    if config.bootstrap < 0:
        raise ConfigurationError(f"bootstrap={config.bootstrap}: must be a number of samples, or 0 for no intervals")
    folder = Path(config.run_dir)
    save_provenance(config, folder)
    if config.retrieval:
        from ortho_lightning.experiments.embeddings import retrieval

        retrieval.require_faiss()
    if config.compare:
        from ortho_lightning.experiments.embeddings import comparison

        comparison.require_all()
    scores = _scores_of_all(config, folder)
    print(f"\n{table(scores)}\n\n{LEGEND}")
    if config.retrieval:
        print(f"\n{retrieval.measure_retrieval(config)}\n\n{retrieval.LEGEND}")
    if config.compare:
        print(f"\n{comparison.compare_methods(config)}\n\n{comparison.LEGEND}")
    print(f"\nFigures, whitenings and all numbers in {config.run_dir}")


def _scores_of_all(config: DictConfig, folder: Path) -> list[EncoderScores]:
    data: STSEmbeddings = instantiate(config.data)
    for encoder, splits in data.encoders.items():
        d = splits["dev"].a.shape[1]
        if config.n_components is not None and config.n_components > d:
            raise ConfigurationError(f"n_components={config.n_components}: the vectors of {encoder} have {d} numbers")
    scores: list[EncoderScores] = []
    moments: dict[str, Moments] = {}
    for encoder, splits in data.encoders.items():
        moments[encoder] = _moments(data, encoder)
        found = _search(config, splits["dev"], moments[encoder])
        for choice in _chosen_by_hand(config):
            scores.append(_score(config, encoder, choice, moments[encoder], splits["test"]))
        scores.append(_tuned(config, encoder, found, splits["test"]))
        _write_encoder(config, folder, encoder, found)
    save_spectrum_figure(folder / "spectrum.png", moments)
    rows = [each.to_json() for each in scores]
    write_json(folder / "results.json", {"rows": rows})
    write_csv(folder / "results.csv", rows)
    write_text(folder / "results.md", f"{table(scores)}\n\n{LEGEND}\n")
    return scores


def _moments(data: STSEmbeddings, encoder: str) -> Moments:
    try:
        return moments_of(data.sentences(encoder))
    except ValueError as error:
        raise DataError(f"{encoder}: {error}") from error


def _chosen_by_hand(config: DictConfig) -> list[Hyperparameters]:
    cut = int(config.cut)
    listed = [Hyperparameters(cut, float(beta), float(gamma)) for beta, gamma in config.settings]
    asked = Hyperparameters(int(config.n_components or cut), float(config.beta), float(config.gamma))
    return list(dict.fromkeys([*listed, asked]))


def _search(config: DictConfig, dev: Pairs, moments: Moments) -> SearchResult:
    components = config.grid.components
    return search(
        *_arrays(dev),
        list(config.grid.betas),
        list(config.grid.gammas),
        None if components is None else list(components),
        moments=moments,
        progress=config.progress,
    )


def _write_encoder(config: DictConfig, folder: Path, encoder: str, found: SearchResult) -> None:
    write_csv(folder / f"{encoder}-search.csv", found.table())
    found.save_picture(folder / f"{encoder}-search.png", f"{encoder}, dev pairs")
    found.whitening().save(folder / f"{encoder}-tuned.safetensors")
    asked = Whitening.from_moments(found.moments, config.n_components, float(config.beta), float(config.gamma))
    asked.save(folder / f"{encoder}.safetensors")


def _arrays(pairs: Pairs) -> tuple[Any, Any, Any]:
    return pairs.a, pairs.b, pairs.score


def _score(config: DictConfig, encoder: str, choice: Hyperparameters, moments: Moments, test: Pairs) -> EncoderScores:
    """Return the correlations of the test pairs, and the intervals of what whitening gained, if asked for."""
    k = min(choice.n_components or moments.d, moments.d)
    a, b, score = (torch.from_numpy(np.asarray(values, dtype=np.float64)) for values in _arrays(test))
    raw = raw_cosines(a, b)
    (whitened, cut) = next(iter(OF.whitened_cosines(a, b, moments, choice.beta, [choice.gamma], [moments.d, k])))
    correlations = (100 * OF.spearman(torch.stack([raw, whitened, cut]), score)).tolist()
    ends: dict[str, float] = {}
    if config.bootstrap:
        for name, cosines in (("whitened", whitened), ("cut", cut)):
            found = difference_interval(cosines, raw, score, config.bootstrap, config.seed)
            ends |= {f"{name}_low": 100 * found.low, f"{name}_high": 100 * found.high}
    return EncoderScores(encoder, "by hand", choice.beta, choice.gamma, k, *correlations, **ends)


def _tuned(config: DictConfig, encoder: str, found: SearchResult, test: Pairs) -> EncoderScores:
    best = found.best
    choice = Hyperparameters(best.n_components, best.beta, best.gamma)
    scores = _score(config, encoder, choice, found.moments, test)
    return replace(scores, chosen="on dev", dev=100 * best.spearman)


def table(scores: Sequence[EncoderScores]) -> str:
    """Return the scores as a Markdown table: a raw, b whitened, c whitened and truncated."""
    lines = [["encoder", "chosen", "beta", "gamma", "a: raw", "b: whitened", "b - a", "c: cut to k", "c - a", "k"]]
    for each in scores:
        shown = [each.encoder, each.chosen, f"{each.beta:g}", f"{each.gamma:g}", f"{each.raw:.2f}"]
        shown += [f"{each.whitened:.2f}", _gain(each.whitened - each.raw, each.whitened_low, each.whitened_high)]
        shown += [f"{each.whitened_and_cut:.2f}", _gain(each.whitened_and_cut - each.raw, each.cut_low, each.cut_high)]
        lines.append([*shown, str(each.n_components)])
    return markdown_table(lines)


def _gain(gain: float, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" [{_signed(low)}, {_signed(high)}]"
    return f"{_signed(gain)}{ends}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-0.00", "+0.00")
