"""Every draw of the library has a named stream, and no two kinds of draws share one unless the registry says why."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from caploc.streams import SHARED, Stream, derived_seeds, stream

LIBRARY = Path(__file__).parents[1]
BARE = {
    "consistency/statements.py": 1,  # one fixed sample
    "experiments/scaled_facts.py": 1,  # a fact's random sets, of a seed derived for the fact
    "neurons.py": 1,  # a random set
    "statistics/intervals.py": 2,
    "statistics/permutation.py": 2,
}
"""Where a generator is made of a bare seed -> how often; see the registry for why these have no tag."""


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls of something so named, and the file they stand in, outside tests, benchmarks and the registry."""
    for path in sorted(LIBRARY.rglob("*.py")):
        place = path.relative_to(LIBRARY).as_posix()
        if place.startswith(("tests/", "benchmarks/")) or place == "streams.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func
                if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) == name:
                    yield place, node


def test_generators_are_made_by_the_registry_alone() -> None:
    found: dict[str, int] = defaultdict(int)
    for place, call in calls("default_rng"):
        assert len(call.args) == 1 and not call.keywords, f"{place}:{call.lineno} draws without a seed"
        assert not isinstance(call.args[0], ast.List | ast.Tuple), (
            f"{place}:{call.lineno} makes a stream of its own; name it in caploc/streams.py"
        )
        found[place] += 1
    assert found == BARE
    for name in ("SeedSequence", "RandomState", "PCG64", "Philox"):
        assert not [f"{place}:{call.lineno}" for place, call in calls(name)]


def test_every_stream_is_used_in_one_place() -> None:
    used: dict[str, list[str]] = defaultdict(list)
    for function in ("stream", "derived_seeds"):
        for place, call in calls(function):
            if ast.unparse(call.func) == "torch.cuda.stream":
                continue  # of work on a GPU, not of random numbers
            named = call.args[0]
            assert isinstance(named, ast.Attribute), f"{place}:{call.lineno} does not name its stream"
            used[named.attr].append(f"{place}:{call.lineno}")
    assert set(used) == {one.name for one in Stream}
    assert {name: places for name, places in used.items() if len(places) > 1} == {}


def test_tags_are_shared_only_where_the_registry_says_why() -> None:
    by_tag: dict[int, set[Stream]] = defaultdict(set)
    for one in Stream:
        if one.tag is not None:
            by_tag[one.tag].add(one)
    shared = {frozenset(streams) for streams in by_tag.values() if len(streams) > 1}
    assert shared == set(SHARED)
    assert all(len(reason) > 40 for reason in SHARED.values())
    assert len({one.draws for one in Stream}) == len(Stream)


def test_streams_are_those_that_results_were_made_from() -> None:
    """Tags may not change: results, and the keys of the store, hang on them."""
    assert stream(Stream.HALVES, 3).random() == np.random.default_rng([3, 1]).random()
    assert stream(Stream.RUNS, 3, 7).random() == np.random.default_rng([3, 63, 7]).random()
    assert stream(Stream.NOISE, 3, 7).random() == np.random.default_rng([3, 7]).random()
    seeds = np.random.SeedSequence([3, 41, 7]).generate_state(4).tolist()
    assert derived_seeds(Stream.CIRCUITS, 3, 7, count=4) == seeds
    tags = {one.name: one.tag for one in Stream}
    assert [tags[name] for name in ("TWO_WAY", "AVERAGE_SCORE", "FACTS", "BATCHES")] == [51, 52, 21, 5021]


@pytest.mark.parametrize("seed", [0, 5])
def test_numpy_fills_a_short_seed_with_zeros(seed: int) -> None:
    """The reason why a tag of 0 would be no tag, and why an instance 0 is not told apart from none."""
    first = np.random.default_rng(seed).random()
    assert first == np.random.default_rng([seed]).random() == np.random.default_rng([seed, 0]).random()
    assert all(one.tag != 0 for one in Stream)
