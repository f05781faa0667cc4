"""Whitening where people use it; each module needs an optional package of the extra of its name."""
