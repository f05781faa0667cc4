"""Fit and apply with every kind of file, and files that cannot be read."""

import numpy as np
import pytest

from ortho_lightning import Whitening
from ortho_lightning.errors import DataError
from ortho_lightning.experiments.embeddings.vector_files import open_dataset, open_vectors
from tests.experiments.embeddings.files import ENDINGS, read, read_table, vectors, write

pytest.importorskip("pyarrow")
pytest.importorskip("faiss")


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_is_read_and_written(command, ending):
    x = vectors()
    write(command.folder / f"x{ending}", x)
    said = command("fit=x" + ending, "out=w.safetensors", "n_components=4", "gamma=0.5", "progress=false")
    assert "w.safetensors: 120 vectors of 6 numbers, rank 6" in said
    expected = Whitening(4, 1.0, 0.5).fit(x)
    said = command("apply=w.safetensors", f"to=x{ending}", f"out=y{ending}", "progress=false")
    assert said == f"y{ending}: 120 vectors of 4 numbers\n"
    np.testing.assert_allclose(read(command.folder / f"y{ending}"), expected(x).numpy(), rtol=1e-4, atol=1e-5)
    assert not list(command.folder.glob("outputs*"))
    assert not [path for path in command.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_have_the_mode_that_the_umask_asks_for(command, ending):
    (command.folder / "usual").touch()
    write(command.folder / "x.npy", vectors())
    command("fit=x.npy", "out=w.safetensors", "progress=false")
    command("apply=w.safetensors", "to=x.npy", f"out=y{ending}", "progress=false")
    expected = (command.folder / "usual").stat().st_mode
    assert (command.folder / "w.safetensors").stat().st_mode == expected
    assert (command.folder / f"y{ending}").stat().st_mode == expected


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_the_other_columns_are_kept(command, ending):
    write(command.folder / f"x{ending}", vectors())
    command("fit=x" + ending, "out=w.safetensors", "n_components=4", "progress=false")
    command("apply=w.safetensors", f"to=x{ending}", f"out=y{ending}", "progress=false")
    table = read_table(command.folder / f"y{ending}")
    assert table["id"].to_pylist() == [f"row {i}" for i in range(120)]
    assert table.schema.names == ["id", "embedding"]


def test_an_index_keeps_its_ids_and_metric(command):
    import faiss

    x = vectors()
    index = faiss.IndexIDMap(faiss.IndexFlatL2(6))
    index.add_with_ids(x, np.arange(120) + 1000)
    faiss.write_index(index, "x.faiss")
    command("fit=x.faiss", "out=w.safetensors", "progress=false")
    command("apply=w.safetensors", "to=x.faiss", "out=y.faiss", "progress=false")
    found = faiss.read_index("y.faiss")
    assert found.metric_type == faiss.METRIC_L2
    whitened = Whitening().fit(x)(x).numpy()
    assert found.search(whitened[:5], 1)[1].ravel().tolist() == [1000, 1001, 1002, 1003, 1004]


def test_an_inverted_index_is_reconstructed(command):
    import faiss

    x = vectors(400)
    index = faiss.index_factory(6, "IVF4,Flat")
    index.train(x)
    index.add(x)
    faiss.write_index(index, "x.index")
    np.testing.assert_array_equal(next(iter(open_vectors(command.folder / "x.index").parts())).vectors, x)


def test_many_parts_are_one_file(tmp_path):
    x = vectors(40_000, 3)
    for ending in ENDINGS:
        file = open_vectors(write(tmp_path / f"x{ending}", x))
        assert (file.count, file.d) == x.shape
        np.testing.assert_array_equal(np.concatenate([part.vectors for part in file.parts()]), x)


def test_a_key_names_one_of_several(command):
    x = vectors()
    np.savez("x.npz", a=x, b=vectors(d=5))
    message = command.rejects("fit=x.npz", "out=w.safetensors")
    assert "x.npz has 2 arrays of vectors (a (float32 (120, 6)), b (float32 (120, 5)))" in message
    assert "key=NAME" in command.rejects("fit=x.npz", "out=w.safetensors")
    assert "no array of vectors named 'c'" in command.rejects("fit=x.npz", "out=w.safetensors", "key=c")
    assert "120 vectors of 5 numbers" in command("fit=x.npz", "out=w.safetensors", "key=b", "progress=false")


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".parquet", ".arrow", ".faiss"])
def test_a_truncated_file_is_named(command, ending):
    path = write(command.folder / f"x{ending}", vectors(2000))
    whole = path.read_bytes()
    for length in (len(whole) - 40, len(whole) // 2, 3):
        path.write_bytes(whole[:length])
        message = command.rejects(f"fit=x{ending}", "out=w.safetensors", "progress=false")
        assert message.startswith(f"x{ending}"), message
        assert "cannot be read" in message


def test_damage_inside_a_file_is_named_too(command):
    path = write(command.folder / "x.parquet", vectors(20_000))
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    assert command.rejects("fit=x.parquet", "out=w.safetensors", "progress=false").startswith(
        "x.parquet cannot be read"
    )


def test_rows_of_other_lengths_and_nulls_are_named(command):
    import pyarrow as pa
    import pyarrow.parquet

    for rows, message in (
        ([[1.0, 2.0]] * 7 + [[1.0]], "row 7 of column v has 1 numbers, the first has 2"),
        ([[1.0, 2.0]] * 5 + [None], "row 5 of column v is null"),
        ([[1.0, 2.0]] * 4 + [[None, 1.0]], "row 4 of column v holds a null number"),
        ([None, [1.0]], "row 0 of column v is null"),
    ):
        pa.parquet.write_table(pa.table({"v": pa.array(rows, pa.list_(pa.float32()))}), "x.parquet")
        assert message in command.rejects("fit=x.parquet", "out=w.safetensors", "progress=false")
    pa.parquet.write_table(pa.table({"v": [1, 2]}), "x.parquet")
    assert "0 columns of vectors (none)" in command.rejects("fit=x.parquet", "out=w.safetensors")


def test_nan_is_named_by_file_and_row(command):
    for ending in (".npy", ".parquet", ".npz"):
        x = vectors(20_000, 2)
        x[17_123, 1] = np.nan
        write(command.folder / f"x{ending}", x)
        message = command.rejects(f"fit=x{ending}", "out=w.safetensors", "progress=false")
        assert message.startswith(f"x{ending}: the vectors hold NaN or infinity in 1 row(s): 17123")
        message = command.rejects(f"fit=x{ending}", "out=w.safetensors", "keep=0.9", "progress=false")
        assert "1 row(s): 17123" in message


def test_text_is_answered_with_how_to_convert_it(command):
    (command.folder / "x.csv").write_text("1,2\n3,4\n5,7\n")
    message = command.rejects("fit=x.csv", "out=w.safetensors")
    assert "x.csv is text: convert it to .npy" in message
    code = message.partition("with ")[2]
    exec(f"import numpy; {code}")
    assert "3 vectors of 2 numbers" in command("fit=x.npy", "out=w.safetensors", "progress=false")
    (command.folder / "x.doc").touch()
    assert "end in .npy, .npz" in command.rejects("fit=x.doc", "out=w.safetensors")


def test_a_missing_extra_is_named(command, monkeypatch):
    import sys

    write(command.folder / "x.parquet", vectors())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "ortho_lightning.experiments.embeddings.vector_files.columns", raising=False)
    assert "pip install 'ortho-lightning[arrow]'" in command.rejects("fit=x.parquet", "out=w.safetensors")


def test_a_folder_is_one_data_set(tmp_path):
    x = vectors()
    for name, part in zip(("b.npy", "a.parquet", "c.npz"), np.split(x, [50, 60]), strict=True):
        write(tmp_path / name, part)
    (tmp_path / "README.md").touch()
    (tmp_path / ".d.npy.host.1.x").touch()
    dataset = open_dataset(str(tmp_path))
    assert [shard.path.name for shard in dataset.shards] == ["a.parquet", "b.npy", "c.npz"]
    assert (dataset.count, dataset.d) == (120, 6)
    write(tmp_path / "d.npy", vectors(d=5))
    with pytest.raises(DataError, match=r"d\.npy has vectors of 5 numbers, .*a\.parquet of 6"):
        open_dataset(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no files of vectors"):
        open_dataset(str(tmp_path / "empty"))
