"""Search over beta, gamma and k of a whitening: with scored pairs, or by the neighbours of unlabelled vectors."""

from ortho_lightning.search.neighbours import NeighbourSearch, RecallPoint, fewest_components, search_neighbours
from ortho_lightning.search.pairs import GridPoint, SearchResult, raw_score, score_pairs, search

__all__ = [
    "GridPoint",
    "NeighbourSearch",
    "RecallPoint",
    "SearchResult",
    "fewest_components",
    "raw_score",
    "score_pairs",
    "search",
    "search_neighbours",
]
