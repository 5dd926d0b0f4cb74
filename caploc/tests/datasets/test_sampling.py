"""Random subsets and the two sides of a single file: properties, over drawn datasets."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.datasets import load_examples
from caploc.datasets.base import on_locating_side, subset
from caploc.examples import Example

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
groups = st.none() | st.sampled_from("ABCD")
example_lists = st.lists(st.tuples(texts, texts, groups), min_size=1, max_size=30).map(
    lambda rows: [Example(f"e{i}", prompt, answer, group) for i, (prompt, answer, group) in enumerate(rows)]
)
seeds = st.integers(-(2**70), 2**70)


def contents(examples):
    return [(e.prompt, e.answer, e.group) for e in examples]


@given(example_lists, seeds, st.integers(1, 40), st.integers(1, 40))
def test_a_smaller_limit_is_a_prefix_of_a_larger_one(examples, seed, first, second):
    small, large = sorted((first, second))
    assert subset(examples, small, seed) == subset(examples, large, seed)[:small]


@given(example_lists, seeds, st.integers(1, 40))
def test_subsets_are_drawn_without_replacement(examples, seed, limit):
    chosen = subset(examples, limit, seed)
    assert len(chosen) == min(limit, len(examples))
    assert len({e.id for e in chosen}) == len(chosen)
    assert set(chosen) <= set(examples)


@given(example_lists, seeds)
def test_groups_stay_together(examples, seed):
    order = [e.group for e in subset(examples, len(examples), seed) if e.group is not None]
    runs = [group for i, group in enumerate(order) if i == 0 or order[i - 1] != group]
    assert len(runs) == len(set(runs))


@given(example_lists.filter(lambda es: all(e.group is None for e in es)), seeds, st.randoms())
@settings(max_examples=50)
def test_the_choice_does_not_depend_on_the_order_of_the_source(examples, seed, random):
    shuffled = random.sample(examples, len(examples))
    limit = max(1, len(examples) // 2)
    assert contents(subset(shuffled, limit, seed)) == contents(subset(examples, limit, seed))


@pytest.mark.parametrize("seed", range(5))
def test_where_prompt_ends_and_answer_begins_counts(seed):
    examples = [Example("1", "ab", "c"), Example("2", "a", "bc")]
    assert subset(examples, 1, seed) == subset(examples[::-1], 1, seed)


def test_every_example_is_equally_likely_to_come_first():
    examples = [Example(str(i), f"p{i}", " a") for i in range(4)]
    first = [subset(examples, 1, seed)[0].id for seed in range(2000)]
    counts = [first.count(e.id) for e in examples]
    assert sum(counts) == 2000
    assert all(400 < count < 600 for count in counts)  # 500 expected, sd 19


def test_about_seventy_percent_are_located_with():
    share = sum(on_locating_side(f"question {i}") for i in range(20_000)) / 20_000
    assert abs(share - 0.7) < 0.015  # sd 0.0032


@given(st.lists(st.tuples(texts, texts, st.none() | st.sampled_from("ABCDEF")), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:.* left out")
def test_the_sides_of_a_single_file_are_disjoint_and_complete(rows):
    records = [{"prompt": p, "answer": f" {a}"} | ({"group": g} if g else {}) for p, a, g in rows]
    everything, sides = loaded(records)
    texts = {(e.prompt, e.answer) for e in everything}
    located, evaluated = ({(e.prompt, e.answer) for e in sides[side]} for side in ("locate", "evaluate"))
    assert len(everything) == len(texts) == len({(p, f" {a}") for p, a, _ in rows})
    assert located | evaluated <= texts and len(located) == len(sides["locate"])
    prompts = {prompt for prompt, _ in located}
    assert prompts.isdisjoint(prompt for prompt, _ in evaluated)
    assert all(prompt in prompts for prompt, _ in texts - located - evaluated)  # in two groups, on both sides
    keys = {side: {e.group or e.prompt for e in examples} for side, examples in sides.items()}
    assert not keys["locate"] & keys["evaluate"]
    _, shuffled_sides = loaded(records[::-1])
    for side, examples in sides.items():
        assert sorted(contents(examples), key=str) == sorted(contents(shuffled_sides[side]), key=str)


def loaded(records):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "own.jsonl"
        file.write_text("\n".join(map(json.dumps, records)))
        sides = {}
        for split in ("locate", "evaluate"):
            try:
                sides[split] = load_examples("own", path=file, split=split)
            except ValueError as error:
                # one prompt in two groups may stand on both sides, and is located with
                assert any(
                    one in str(error) for one in (f"falls on the {split} side", "also stands in its training")
                )
                sides[split] = []
        return load_examples("own", path=file), sides


def test_another_process_draws_the_same(write_jsonl):
    file = write_jsonl("own.jsonl", [{"prompt": f"p{i}", "answer": f" a{i}"} for i in range(30)])
    here = [e.id for e in load_examples("own", path=file, split="locate", limit=9, seed=5)]
    code = (
        "from caploc.datasets import load_examples\n"
        f"print(*[e.id for e in load_examples('own', path={str(file)!r}, split='locate', limit=9, seed=5)])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


def test_seeds_differ_and_no_limit_keeps_the_order(write_jsonl):
    file = write_jsonl("own.jsonl", [{"prompt": f"p{i}", "answer": f" a{i}"} for i in range(30)])
    ids = [e.id for e in load_examples("own", path=file)]
    assert ids == sorted(ids)
    draws = {tuple(e.id for e in load_examples("own", path=file, limit=10, seed=seed)) for seed in range(5)}
    assert len(draws) == 5
    assert len(load_examples("own", path=file, limit=1000)) == 30


def test_records_that_share_a_question_or_subject_fall_on_one_side(write_jsonl):
    meta = [
        {"query": f"rephrased {i} {j}", "response": "r", "original_question": f"question {i}"}
        for i in range(40)
        for j in range(3)
    ]
    file = write_jsonl("meta.jsonl", meta)
    located = {e.prompt.split()[2] for e in load_examples("meta_math", path=file, split="locate")}
    evaluated = {e.prompt.split()[2] for e in load_examples("meta_math", path=file, split="evaluate")}
    assert located and evaluated and not located & evaluated

    emotion = [{"text": f"text {i}", "label": label} for i in range(40) for label in (1, 2)]
    file = write_jsonl("emotion.jsonl", emotion)
    sides = [load_examples("emotion", path=file, split=split) for split in ("locate", "evaluate")]
    assert not {e.prompt for e in sides[0]} & {e.prompt for e in sides[1]}
    assert len(sides[0]) + len(sides[1]) == 80


def test_a_subject_lies_on_the_same_side_in_every_dataset(write_jsonl):
    subjects = [f"Subject {i}" for i in range(40)]
    known = [
        {"known_id": i, "subject": s, "prompt": f"{s} is", "attribute": "x"} for i, s in enumerate(subjects)
    ]
    zsre = [{"subject": s, "src": f"Who is {s}?", "answers": ["x"]} for s in subjects]
    located = load_examples("known_1000", path=write_jsonl("k.jsonl", known), split="locate")
    asked = load_examples("zsre", path=write_jsonl("z.jsonl", zsre), split="locate")
    assert {e.prompt.removesuffix(" is") for e in located} == {e.group for e in asked}
