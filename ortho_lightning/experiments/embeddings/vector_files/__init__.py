"""Vectors in the kinds of files that people have; each kind is a module with a reader and a writer."""

from ortho_lightning.experiments.embeddings.vector_files.base import Layout, Part, VectorFile
from ortho_lightning.experiments.embeddings.vector_files.dataset import Dataset, open_dataset
from ortho_lightning.experiments.embeddings.vector_files.kinds import check_output, open_vectors, write_vectors

__all__ = ["Dataset", "Layout", "Part", "VectorFile", "check_output", "open_dataset", "open_vectors", "write_vectors"]
