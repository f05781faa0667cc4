"""Path of the penalty through a training step, from hook to loss."""
