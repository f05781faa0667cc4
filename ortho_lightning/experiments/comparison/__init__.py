"""Runs of a comparison, and the statistics of what they found."""
