"""A tiny transformer built from a configuration: nothing is downloaded."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer

try:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
except ImportError:  # their place in the first releases of 5
    from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from ortho_lightning import Whitening
from ortho_lightning.errors import DataError
from ortho_lightning.integrations.sentence_transformers import SentenceWhitening

SENTENCES = [" ".join(word) for word in ("abc", "bcd", "ddd", "aef", "fgh", "hij", "jab", "cgi", "dhj", "eai")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=15, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(8)], device="cpu")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_appended_saved_and_loaded_it_gives_whitened_sentences(model, tmp_path):
    raw = model.encode(SENTENCES)
    whitening = Whitening(4, 1.0, 0.5).fit(raw)
    model.append(SentenceWhitening(whitening))
    small = model.encode(SENTENCES)
    np.testing.assert_allclose(small, whitening(raw).numpy(), rtol=1e-5, atol=1e-5)
    assert model.get_sentence_embedding_dimension() == 4
    model.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(again.encode(SENTENCES), small, rtol=1e-5, atol=1e-6)
    assert again.get_sentence_embedding_dimension() == 4
    (kind,) = {m["type"] for m in json.loads((tmp_path / "modules.json").read_text()) if "ortho" in m["type"]}
    assert kind == "ortho_lightning.integrations.sentence_transformers.SentenceWhitening"
    (file,) = tmp_path.rglob("whitening.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"whitening\.safetensors cannot be read"):
        SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)


def appended(model):
    """A model of the same encoder with a whitening of its own."""
    encoder = SentenceTransformer(modules=[model[0], model[1]], device="cpu")
    encoder.append(SentenceWhitening(Whitening(3).fit(encoder.encode(SENTENCES))))
    return encoder


@pytest.mark.filterwarnings("ignore")
def test_similarities_are_those_of_whitened_sentences(model):
    whitened = appended(model)
    small = whitened.encode(SENTENCES)
    unit = small / np.linalg.norm(small, axis=1, keepdims=True)
    np.testing.assert_allclose(whitened.similarity(small, small).numpy(), unit @ unit.T, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_several_processes_encode_as_one(model):
    whitened = appended(model)
    expected = whitened.encode(SENTENCES)
    pool = whitened.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = whitened.encode(SENTENCES, pool=pool, chunk_size=4)
    finally:
        whitened.stop_multi_process_pool(pool)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"whitening\.safetensors does not exist"):
        SentenceWhitening.load(str(tmp_path))
