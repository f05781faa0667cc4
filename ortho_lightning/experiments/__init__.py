"""Experiments: an entry point for each command, and the parts that they share."""
