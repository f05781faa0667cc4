"""Adapters for what each kind of logger takes beyond scalars: one file a kind, and one class for a kind of your own."""

from ortho_lightning.callbacks.monitoring.adapters.base import Adapter, Chart, Histogram, Layout, Table
from ortho_lightning.callbacks.monitoring.adapters.registry import adapter_for, register

__all__ = ["Adapter", "Chart", "Histogram", "Layout", "Table", "adapter_for", "register"]
