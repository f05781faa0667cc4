"""Small objects that pick a penalty and its settings; what ``regularizer=`` names on the command line."""

from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.gram import Gram
from ortho_lightning.regularizers.lsh import LSH

__all__ = ["LSH", "Gram", "Regularizer"]
