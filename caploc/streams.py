"""The registry of random streams: every kind of draw has a name here, and with it a sequence of its own.

A stream is numpy's generator for ``[seed, tag, *more]``. The tag keeps draws of different kinds apart where they start
from the same seed: without it, the splits of a dataset and the random sets compared with what is located on it would be
made from the same numbers. A new kind of draw gets a new name and an unused tag.

Results and the store's keys hang on the tags, so those given away twice before there was a registry stay as they are:
`SHARED` names them with the reason why no result suffers. numpy fills a short seed with zeros, so that ``seed``,
``[seed]`` and ``[seed, 0]`` are one stream, and so are ``[seed, tag]`` and ``[seed, tag, 0]``.

The resampling of one sample (`caploc.statistics`: bootstrap of a mean, sign flips, permutations within strata) and one
random set of neurons (`caploc.neurons.NeuronMask.random_like`) take a bare seed, without a tag: their caller decides
what shares it. Two intervals from one seed draw the same rows, as they should where they are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import numpy as np


class Stream(Enum):
    """A kind of draw: its tag, and what is drawn. Untagged streams are told apart by what follows the seed."""

    tag: int | None
    draws: str

    # what is located, on splits and resamples of a dataset's shards or samples
    HALVES = 1, "permutations that split shards into two halves (Table 1)"
    SHARDS = 2, "bootstrap samples of shards, for the neuron ratio"
    MATCHED_OVERLAP = 3, "hypergeometric overlaps of two random sets of the located counts"
    EXCHANGED_SHARDS = 4, "permutations that deal two datasets' shards out anew"
    LAYER_MATCHED = 5, "hypergeometric overlaps of two datasets' counts in every layer"
    SHARDS_AGAIN = 6, "bootstrap samples of shards, which are then halved"
    SCRAMBLED = 7, "permutations that make text without meaning"
    CONVERGENCE = 8, "orders in which a dataset's shards are added"
    SUBSETS = 9, "subsets of shards that are compared with the rest"
    TRAINED_SHARE = 44, "bootstrap samples of shards, for the share of neurons that is trained"
    SAMPLE_HALVES = 51, "permutations that split samples into two halves, for every method alike"
    SAMPLE_WEIGHTS = 52, "exponential weights of samples (Bayesian bootstrap), and their halves"
    DATASET_PAIRS = 61, "bootstrap samples of three datasets' shards"

    # sets and circuits drawn at random, to compare located ones with
    LAYER_SETS = 1, "seeds of random sets of neurons matched by layer"
    NEAREST_SETS = 2, "uniform numbers that choose neurons of like magnitude"
    SYNAPSES = 111, "seeds of attention cells, and of neurons, that match those of one fact"
    LONG_CELLS = 113, "orders of attention cells, of which as many are taken as are as long as others"
    DISJOINT_SETS = (
        53,
        "random sets of neurons that hold none of the located ones; layer and kind follow the seed",
    )
    RANDOM_RANKING = 71, "scores of neurons by a locator that locates at random"
    CHECK_HALVES = 72, "halves of a planted task's examples, on which a locator is to agree with itself"
    FACT_SETS = None, "a seed for the random sets of one fact; the fact's number follows the seed"
    TRAINED_SETS = 43, "a seed for the random sets that are trained"
    CIRCUITS = 41, "seeds of one fact's random circuits"
    CIRCUIT_NODES = 42, "senders of a random circuit"
    LAYERS = 0x6C7901, "layers of a random set"
    EDGES = 0x6B6301, "edges of a random circuit"
    EDGES_OF_DEGREE = 0x6B6302, "pairs of edges that exchange their senders"
    UNATTRIBUTED_NEURONS = 41, "neurons of one fact beside those of the largest attributions"

    # facts and prompts
    FACTS = 21, "bootstrap samples of facts, or of their subjects"
    DEALT_PROMPTS = 22, "permutations that deal prompts out anew among facts"
    FACT_HALVES = 23, "permutations that split facts into two halves"
    CHOSEN_PROMPTS = 24, "permutations that choose prompts of a task"
    TASK_SETS = 25, "places of random sets, as many in every layer as each prompt's"
    SWAPPED_TASKS = 26, "which pairs of prompts swap their tasks"
    CHOICES = 31, "halves of the items, on one of which the best random choice is found"

    CROSSED = 101, "bootstrap samples of subjects, and of the templates of each relation, crossed"
    PSEUDO_FACTS = (
        102,
        "facts, one a wording, that make up one that does not exist; the fact follows the seed",
    )
    ONE_MODE = 103, "smoothed bootstrap samples of the narrowest density with one mode"
    QUERY_SETS = (
        104,
        "a seed for the sets that match a query's in magnitude; the fact's number follows the seed",
    )

    # scores
    TWO_WAY = 51, "multinomial weights of random sets and of items, crossed"
    AVERAGE_SCORE = 52, "multinomial weights of the items of each dataset"
    LARGEST_MEAN = 80, "signs of clusters, for the largest of several means"
    BEST_RIVAL = 41, "weights of items and runs, and permutations of an item's arms"
    ITEMS = 62, "bootstrap samples of one dataset's items, in all cells of a matrix"
    RUNS = 63, "bootstrap samples of one dataset's runs of training, in all cells of a row"
    DATASET_TYPES = 64, "permutations of the datasets' types"
    DATASETS = 65, "permutations of a model's datasets (Mantel)"
    SIMULATED_SAMPLES = (
        None,
        "samples of a stated truth, for the rates of a rule; the design follows the seed",
    )
    SIMULATED_PARTS = (
        None,
        "orders in which simulated samples make up measurements; their count follows the seed",
    )
    LOOKED_SAMPLES = (
        121,
        "samples of a stated truth, which grow from look to look; run and part follow the seed",
    )
    LOOKED_PARTS = 122, "what else a simulated measurement draws at one look; run and look follow the seed"
    SIMULATED_NOISE = None, "noise on planted scores, for the overlap that it leaves"

    # interventions
    BATCHES = 5021, "the order of training examples"
    PREFIXES = 0x5045, "tokens of the texts in front of an edited prompt"
    NOISE = None, "noise on a subject's embeddings; 64 bits of the hash of the example's name follow the seed"
    OTHER_FACTS = (
        112,
        "facts that an edit must spare, and the answer that it writes; the fact follows the seed",
    )
    NOISED_ELSEWHERE = 0x4E4F, "other tokens of a prompt that get the subject's noise"

    def __init__(self, tag: int | None, draws: str) -> None:
        self.tag, self.draws = tag, draws


SHARED: Mapping[frozenset[Stream], str] = {
    frozenset({Stream.HALVES, Stream.LAYER_SETS}): (
        "permutations of shards, and numbers that are only seeds of further streams; random sets are compared with "
        "what all shards locate, never with halves"
    ),
    frozenset({Stream.SHARDS, Stream.NEAREST_SETS}): (
        "choices of shards for the interval of a ratio, and choices of neurons for a control of erasing and training: "
        "no claim uses both"
    ),
    frozenset({Stream.CIRCUITS, Stream.UNATTRIBUTED_NEURONS, Stream.BEST_RIVAL}): (
        "seeds of circuits, neurons whose quadrature is checked, and weights of evaluation items: claims of three "
        "families, on different data"
    ),
    frozenset({Stream.SAMPLE_HALVES, Stream.TWO_WAY}): (
        "splits of locating samples, and weights of random sets and evaluation items: claims of different families"
    ),
    frozenset({Stream.SAMPLE_WEIGHTS, Stream.AVERAGE_SCORE}): (
        "weights of locating samples, and weights of evaluation items: claims of different families"
    ),
}
"""Streams of one tag -> why that is harmless. Beyond these, the number of a fact (`Stream.FACT_SETS`) may equal a tag:
what is drawn there is one number, itself only a seed of further streams."""


def stream(name: Stream, seed: int, *more: int) -> np.random.Generator:
    """The generator of one kind of draw; ``more`` numbers tell its instances apart, such as a fact's number."""
    return np.random.default_rng(_entropy(name, seed, more))


def derived_seeds(name: Stream, seed: int, *more: int, count: int = 1) -> list[int]:
    """``count`` seeds below 2**32 for what takes a seed of its own."""
    found: list[int] = np.random.SeedSequence(_entropy(name, seed, more)).generate_state(count).tolist()
    return found


def _entropy(name: Stream, seed: int, more: tuple[int, ...]) -> list[int]:
    return [seed, *more] if name.tag is None else [seed, name.tag, *more]
