"""The cost of a penalty: time and memory of a step, and the quality of a sample."""
