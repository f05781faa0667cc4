"""Parts of one training run."""
