"""Measuring the angles of a model and handing them to loggers."""
