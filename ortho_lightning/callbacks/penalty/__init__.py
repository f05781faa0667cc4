"""The penalty's path through a training step, from hook to loss."""
