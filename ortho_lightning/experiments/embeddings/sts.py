"""The table of the article on the STS benchmark: raw, whitened, whitened and cut; then tuned on dev."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ortho_lightning.data.stsb import Pairs, STSEmbeddings
from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.figures import save_spectrum_picture
from ortho_lightning.files import whole_file, write_csv, write_json
from ortho_lightning.functional import Moments
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import moments_of
from ortho_lightning.search import SearchResult, raw_score, score_pairs, search
from ortho_lightning.tables import markdown_table

LEGEND = """\
Spearman x 100 between cosine and score on the test pairs. Fitted on the sentences of all splits, without their scores;
tuned: beta, gamma and k chosen on the dev pairs alone."""


def run(config: DictConfig) -> dict[str, Any]:
    """Make the table for every encoder of ``config.data``; everything goes under ``config.run_dir``."""
    folder = Path(config.run_dir)
    data: STSEmbeddings = instantiate(config.data)
    settings = [(float(beta), float(gamma), int(config.cut)) for beta, gamma in config.settings]
    asked = (float(config.beta), float(config.gamma), int(config.n_components or config.cut))
    for encoder, splits in data.encoders.items():
        if config.n_components is not None and config.n_components > splits["dev"].a.shape[1]:
            raise ConfigurationError(
                f"n_components={config.n_components}: the vectors of {encoder} have {splits['dev'].a.shape[1]} numbers"
            )
    rows: list[dict[str, Any]] = []
    moments = {}
    for encoder, splits in data.encoders.items():
        try:
            moments[encoder] = moments_of(data.sentences(encoder))
            found = search(
                *_arrays(splits["dev"]),
                list(config.search.betas),
                list(config.search.gammas),
                None if config.search.components is None else list(config.search.components),
                moments=moments[encoder],
                progress=config.progress,
            )
            rows += _settings_of(encoder, list(dict.fromkeys([*settings, asked])), moments[encoder], splits["test"])
            rows.append(_tuned(encoder, found, splits["test"]))
        except ConfigurationError:
            raise
        except ValueError as error:
            raise DataError(f"{encoder}: {error}") from error
        write_csv(folder / f"{encoder}-search.csv", found.table())
        found.save_picture(folder / f"{encoder}-search.png", f"{encoder}, dev pairs")
        found.whitening().save(folder / f"{encoder}-tuned.safetensors")
        Whitening.from_moments(moments[encoder], config.n_components, *asked[:2]).save(
            folder / f"{encoder}.safetensors"
        )
    save_spectrum_picture(folder / "spectrum.png", moments)
    results = {"rows": rows}
    write_json(folder / "results.json", results)
    write_csv(folder / "results.csv", rows)
    with whole_file(folder / "results.md") as path:
        path.write_text(f"{table(rows)}\n\n{LEGEND}\n")
    return results


def _arrays(pairs: Pairs) -> tuple[Any, Any, Any]:
    return pairs.a, pairs.b, pairs.score


def _settings_of(
    encoder: str, settings: Sequence[tuple[float, float, int]], moments: Moments, test: Pairs
) -> list[dict[str, Any]]:
    raw = 100 * raw_score(*_arrays(test))
    rows = []
    for beta, gamma, cut in settings:
        whitened, cut_short = (
            100 * score_pairs(*_arrays(test), moments, beta, gamma, k) for k in (moments.d, min(cut, moments.d))
        )
        rows.append(
            {
                "encoder": encoder,
                "chosen": "by hand",
                "beta": beta,
                "gamma": gamma,
                "n_components": min(cut, moments.d),
                "raw": raw,
                "whitened": whitened,
                "whitened_and_cut": cut_short,
            }
        )
    return rows


def _tuned(encoder: str, found: SearchResult, test: Pairs) -> dict[str, Any]:
    best = found.report(*_arrays(test))
    full = score_pairs(*_arrays(test), found.moments, best.beta, best.gamma)
    return {
        "encoder": encoder,
        "chosen": "on dev",
        "beta": best.beta,
        "gamma": best.gamma,
        "n_components": best.n_components,
        "raw": 100 * raw_score(*_arrays(test)),
        "whitened": 100 * full,
        "whitened_and_cut": 100 * best.spearman,
        "dev": 100 * found.best.spearman,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: a raw, b whitened, c whitened and cut."""
    lines = [["encoder", "chosen", "beta", "gamma", "a: raw", "b: whitened", "c: cut to k", "k"]]
    for row in rows:
        figures = [f"{row[key]:.2f}" for key in ("raw", "whitened", "whitened_and_cut")]
        lines.append(
            [
                *(row["encoder"], row["chosen"], f"{row['beta']:g}", f"{row['gamma']:g}"),
                *(*figures, str(row["n_components"])),
            ]
        )
    return markdown_table(lines)
