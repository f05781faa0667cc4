"""Parts of WhiteningCallback: sources of vectors, their moments, checkpoints and logged values."""
