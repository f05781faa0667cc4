"""Files of vectors of every kind, written by the libraries that they belong to."""

import numpy as np
import pytest

ENDINGS = (".npy", ".npz", ".safetensors", ".parquet", ".arrow", ".feather", ".faiss")


def vectors(n=120, d=6, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, d)) * np.linspace(2, 0.4, d) + 1).astype(dtype)


def write(path, x, **others):
    """Write vectors, for columns with other columns beside them."""
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        np.savez_compressed(path, ids=np.arange(len(x)), embeddings=x)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"embeddings": x, "bias": np.ones(3)}, path)
    elif path.suffix in (".parquet", ".arrow", ".feather"):
        write_table(path, x)
    else:
        faiss = pytest.importorskip("faiss")
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        faiss.write_index(index, str(path))
    return path


def write_table(path, x):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    table = pa.table({"id": [f"row {i}" for i in range(len(x))], "embedding": list(x)})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=50)
    elif path.suffix == ".arrow":  # the stream format, as Hugging Face's datasets
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    else:
        feather.write_feather(table, path, compression="uncompressed")


def read(path):
    """Read vectors with the library of the file."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return next(archive[name] for name in archive if archive[name].ndim == 2)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return next(x for x in load_file(path).values() if x.ndim == 2)
    if path.suffix == ".faiss":
        import faiss

        index = faiss.read_index(str(path))
        return index.reconstruct_n(0, index.ntotal)
    return np.stack(read_table(path)["embedding"].to_pylist())


def read_table(path):
    from pyarrow import feather, parquet

    return parquet.read_table(path) if path.suffix == ".parquet" else feather.read_table(path)
