"""Data sets: each yields ``Sample`` in the order of its sorted names and is opened by path with ``open_dataset``.

One file a set; its class's docstring says whose the data are, under what licence, how they lie and how to get them.
"""

from eval.datasets.base import Dataset, Reader, Sample
from eval.datasets.registry import READERS, one_set, open_dataset

__all__ = ["READERS", "Dataset", "Reader", "Sample", "one_set", "open_dataset"]
