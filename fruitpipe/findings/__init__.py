"""What is found in the vectors of a run: neighbours, duplicates, doubtful labels, images similar to others
or to texts."""

from fruitpipe.findings.curation import Curation, curate
from fruitpipe.findings.duplicates import Duplicates, find_duplicates
from fruitpipe.findings.neighbours import Neighbours, find_neighbours
from fruitpipe.findings.similar import Described, Similar, find_similar
from fruitpipe.findings.texts import ZeroShot, find_described, zero_shot

__all__ = [
    "Curation",
    "Described",
    "Duplicates",
    "Neighbours",
    "Similar",
    "ZeroShot",
    "curate",
    "find_described",
    "find_duplicates",
    "find_neighbours",
    "find_similar",
    "zero_shot",
]
