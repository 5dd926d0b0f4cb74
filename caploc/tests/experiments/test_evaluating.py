"""How a dataset of one's own is scored in a study, and what a floor says of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from caploc.experiments.evaluating import EvaluationItems, PreparedItems
from caploc.experiments.study import Study, StudySettings
from caploc.papers import load_paper
from caploc.store import Store
from caploc.tests.tiny import tiny_lm

PAPER = load_paper("capability_localization")


def items_of(folder: Path, answers: tuple[str, ...], **more: object) -> EvaluationItems:
    """The items of ``mine``, records whose answers come in turn."""
    for part, begin in (("train", 0), ("test", 100)):
        rows = [{"prompt": f"{begin + n}: ", "answer": " " + answers[n % len(answers)]} for n in range(40)]
        (folder / f"mine_{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"margins": PAPER.margins, "data_root": str(folder), "store": Store(folder / "store"), **more}
    settings = StudySettings(datasets=["mine"], **given)  # type: ignore[arg-type]
    return Study("tiny", settings, tiny_lm()).result(PreparedItems("mine"))


@pytest.mark.parametrize(
    ("answers", "scorings", "scoring"),
    [
        (("yes", "no"), {}, "label"),
        (("yes", "no"), {"mine": "exact"}, "exact"),
        (tuple(f"word {n}" for n in range(40)), {}, "tokens"),
        (tuple(f"word {n}" for n in range(40)), {"mine": "chrf"}, "chrf"),
    ],
)
def test_ones_own_data_are_scored_by_a_stated_rule(
    tmp_path: Path, answers: tuple[str, ...], scorings: dict[str, str], scoring: str
) -> None:
    items = items_of(tmp_path, answers, scorings=scorings)
    assert items.settings["scoring, mine"] == scoring
    assert items.notes[0].startswith(f"40 items of mine, scored by {scoring}: ")


@pytest.mark.parametrize(("scoring", "named"), [("exact", True), ("tokens", False)])
def test_a_floor_of_free_text_names_what_teacher_forcing_gives(
    tmp_path: Path, scoring: str, named: bool
) -> None:
    """A model that answers right and goes on writing scores 0, and its user should see why."""
    items = items_of(tmp_path, ("yes", "no"), scorings={"mine": scoring})
    base = {"score": np.zeros(40), "exact": np.arange(40) < 39}
    floor = dataclasses.replace(items, base=base).floor
    assert floor is not None and floor.startswith("floor effect: the untouched model scores 0.0 % on mine")
    assert floor.endswith("of 97.5 % of the answers (--scoring mine=tokens)") is named
    assert dataclasses.replace(items, base={**base, "score": np.ones(40)}).floor is None
