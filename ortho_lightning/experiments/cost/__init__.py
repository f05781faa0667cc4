"""Cost of a penalty: time and memory of a training step, and quality of the sampled estimate."""
