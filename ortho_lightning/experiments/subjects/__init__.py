"""Models of other packages that the zoo trains for a step, each made without weights from the network."""

from ortho_lightning.experiments.subjects.subject import Subject, find_subject, subjects

__all__ = ["Subject", "find_subject", "subjects"]
