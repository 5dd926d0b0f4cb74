"""Datasets: raw records in their original formats -> `caploc.Example`, from the hub or from disk.

load_examples("gsm8k", limit=100)                            # the hub, at the registry's commit
load_examples("gsm8k", path="DATA_ROOT", split="locate")     # a local copy
load_examples("gsm8k", form="choice")                        # as multiple choice
load_examples("mytask", path="FILE.jsonl")                   # records of your own, with prompt and answer
"""

from __future__ import annotations

from caploc.datasets.base import Dataset, Record
from caploc.datasets.loading import DATASETS, load_examples

__all__ = ["DATASETS", "Dataset", "Record", "load_examples"]
