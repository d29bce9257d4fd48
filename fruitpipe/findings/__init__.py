"""What is found in the vectors of a run: neighbours, duplicates, doubtful labels, images similar to others."""

from fruitpipe.findings.curation import Curation, curate
from fruitpipe.findings.duplicates import Duplicates, find_duplicates
from fruitpipe.findings.neighbours import Neighbours, find_neighbours
from fruitpipe.findings.similar import Similar, find_similar

__all__ = [
    "Curation",
    "Duplicates",
    "Neighbours",
    "Similar",
    "curate",
    "find_duplicates",
    "find_neighbours",
    "find_similar",
]
