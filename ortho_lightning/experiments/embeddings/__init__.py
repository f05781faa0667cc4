"""Experiments with embeddings: STS, retrieval and the speed of whitening."""
