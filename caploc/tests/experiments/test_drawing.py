"""What a study draws: as many as asked for of those that fit, each text once. The embedded draws stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caploc.experiments.decoupling import SumPairs
from caploc.experiments.evaluating import GeneralText, PreparedItems
from caploc.experiments.facts import FactPrompts
from caploc.experiments.locating import LocatedOn
from caploc.experiments.specs import NotRunError
from caploc.experiments.study import Study, StudySettings
from caploc.fingerprints import fingerprint
from caploc.papers import load_paper
from caploc.store import Store
from caploc.tests.attribution.families import CONTEXT
from caploc.tests.tiny import tiny_lm

PAPER = load_paper("capability_localization")
LONG = " and so on" * CONTEXT

# of what both embedded models draw at the default settings, where nothing is left out ahead of a draw
EMBEDDED = "29bb4deb8b4f4329"


def record(number: int, long: bool = False, **more: Any) -> dict[str, Any]:
    return {"prompt": f"{number:03d}+1" + LONG * long, "answer": f" {number + 1}", **more}


def study_of(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **more: Any) -> Study:
    for part, rows in (("train", train), ("test", test)):
        (folder / f"mine_{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {
        "margins": PAPER.margins,
        "data_root": str(folder),
        "datasets": ["mine"],
        "store": Store(folder / "s"),
    }
    return Study("tiny", StudySettings(**{**given, **more}), tiny_lm())


@given(
    long=st.lists(st.booleans(), min_size=60, max_size=60).filter(lambda long: 20 <= long.count(True) <= 40),
    samples=st.integers(16, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_many_are_drawn_as_asked_for_of_those_that_fit(
    tmp_path: Path, long: list[bool], samples: int, seed: int
) -> None:
    rows = [record(number, one) for number, one in enumerate(long)]
    held = [record(100 + number, one) for number, one in enumerate(long)]
    fitting = (
        [one for one in rows if LONG not in one["prompt"]],
        [one for one in held if LONG not in one["prompt"]],
    )
    found = study_of(tmp_path, rows, held, samples=samples, seed=seed)
    located, items = found.located("mine"), found.result(PreparedItems("mine")).prepared
    assert len(located.examples) == len(items.all_items) == samples
    assert [one.id for one in located.examples] == [one.id for one in located.tokenized]
    notes = LocatedOn(located).notes
    lost = len(located.excluded)
    assert lost == 0 or f"{lost} examples of mine left out: longer than the model's context" in notes
    only = study_of(tmp_path, *fitting, samples=samples, seed=seed)
    assert [one.prompt for one in only.located("mine").examples] == [one.prompt for one in located.examples]
    assert (
        only.result(PreparedItems("mine")).prepared.all_items[0].tokens.content
        == items.all_items[0].tokens.content
    )


def test_copies_count_once(tmp_path: Path) -> None:
    rows = [record(number // 4, id=number) for number in range(128)]
    found = study_of(
        tmp_path, rows, [record(200 + number // 2, group=number) for number in range(60)], samples=40
    )
    located = found.located("mine")
    assert len(located.examples) == 32 == len({one.prompt for one in located.examples})
    assert LocatedOn(located).notes == [
        "96 of 128 examples of mine left out: copies of another, with its prompt and answer ('mine-train-0', "
        "'mine-train-1' first)"
    ]
    items = found.result(PreparedItems("mine"))
    assert items.prepared.items == 30 and items.left_out[0].startswith(
        "30 of 60 examples of mine left out: copies"
    )
    alone = study_of(tmp_path, [record(0, group=number) for number in range(64)], [record(1)])
    with pytest.raises(NotRunError, match=r"mine has 1 examples that fit tiny-llama \(63 of 64 .* copies"):
        alone.located("mine")


def test_a_prompt_stands_in_one_half_alone_whatever_its_answers(tmp_path: Path) -> None:
    rows = [{**record(number // 2), "answer": f" {number}"} for number in range(80)]
    located = study_of(tmp_path, rows, [record(200)]).located("mine")
    assert len(located.examples) == 40 == len({one.prompt for one in located.examples})
    assert located.left_out == ["40 examples of mine left out: their prompts have another answer, too"]


def test_what_is_located_with_is_not_evaluated_on_whatever_its_id_and_answer(tmp_path: Path) -> None:
    rows = [record(number) for number in range(60)]
    held = [{**record(number), "answer": " x", "id": f"other{number}"} for number in range(30, 90)]
    items = study_of(tmp_path, rows, held, samples=16).result(PreparedItems("mine"))
    assert items.prepared.items == 16
    assert items.left_out == [
        "30 of 60 examples of mine left out of the evaluation: their prompts are located with"
    ]


def test_the_embedded_draws_are_what_they_were(tmp_path: Path) -> None:
    drawn: list[object] = []
    for model in ("tiny-llama", "tiny-gptj"):
        found = Study(model, StudySettings(margins=PAPER.margins, store=Store(tmp_path)))
        for dataset in ("gsm8k", "meta_math", "code25k", "emotion", "imdb"):
            items = found.result(PreparedItems(dataset))
            drawn += [found.located(dataset).fingerprint, items.fingerprint, list(items.clusters)]
            assert not (found.located(dataset).left_out or items.left_out)
        drawn.append(list(found.result(GeneralText())))
        for dataset, wordings in (("counterfact", 3), ("zsre", 2), ("pararel", 5), ("known_1000", 1)):
            facts = found.result(FactPrompts(dataset, wordings))
            drawn += [facts.data_fingerprint, [fact.id for fact in facts.facts], list(facts.left_out)]
        drawn.append(found.result(SumPairs("decoupling")).data_fingerprint)
    assert fingerprint(drawn)[:16] == EMBEDDED
