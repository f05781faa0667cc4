"""Names that the documentation's pages take for the reader's own: a module, data, vectors, and those of one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Module(LightningModule):
    """A small network with layers ``layer1.conv1``, ``layer2.conv1``, ``encoder`` and ``head``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", nn.Conv2d(3, 8, 3))
        self.layer2 = nn.Sequential()
        self.layer2.add_module("conv1", nn.Conv2d(8, 12, 3))
        self.encoder = nn.Linear(12 * 4 * 4, 160)
        self.head = nn.Linear(160, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.layer2(self.layer1(images).relu()).relu()
        return self.head(self.encoder(maps.flatten(1)))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def val_dataloader(self) -> Any:
        return images()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def images() -> DataLoader[Any]:
    """Return a loader of six batches of 16 images with labels."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(96, 3, 8, 8, generator=generator), torch.randint(5, (96,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=16)


def vectors(count: int, seed: int, d: int = 384) -> torch.Tensor:
    """Return vectors whose variances fall."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, d, generator=generator) / torch.arange(1.0, d + 1)


class Notebook(Logger):
    """A logger of the reader's own, which keeps scalars and pages."""

    name, version = "notebook", "0"

    def __init__(self) -> None:
        self.pages: list[Any] = []
        self.scalars: list[Any] = []
        self.hyperparameters: Any = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.scalars.append((step, metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hyperparameters = params


class MyAttention(nn.Module):
    """Query and value in one weight, and a weight in two factors."""

    def __init__(self) -> None:
        super().__init__()
        self.query_value = nn.Parameter(torch.randn(6, 4))
        self.up, self.down = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))


def language_model() -> Any:
    """Return a tiny LLaMA with random weights."""
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
        )
    )


def sentence_model(folder: Path) -> Any:
    """Return a tiny SentenceTransformer of 384 numbers with random weights."""
    package = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=15, hidden_size=384, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return package.SentenceTransformer(modules=[Transformer(str(folder)), Pooling(384)], device="cpu")


def _whitening(folder: Path) -> dict[str, Any]:
    names = ("dev_a", "dev_b", "test_a", "test_b")
    pairs = {name: vectors(80, seed) for seed, name in enumerate(names)}
    scores = {f"{split}_scores": torch.arange(80.0) for split in ("dev", "test")}
    return {**pairs, **scores, "model": sentence_model(folder)}


_OF_PAGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "adapters.md": lambda folder: {"language_model": language_model()},
    "layers.md": lambda folder: {"MyAttention": MyAttention},
    "loggers.md": lambda folder: {"Notebook": Notebook},
    "whitening.md": _whitening,
    "whitening-files.md": lambda folder: {"base": vectors(400, 1, 64), "queries": vectors(40, 2, 64)},
}


def names_for(page: str, folder: Path) -> dict[str, Any]:
    """Return the names that a page takes for the reader's own, by name.

    Args:
        page: its name below ``docs``, such as "layers.md".
        folder: an empty one, for files of the reader's own.
    """
    own = _OF_PAGES[page](folder) if page in _OF_PAGES else {}
    return {"module": Module(), "data": images(), "embeddings": vectors(400, 0), **own}
