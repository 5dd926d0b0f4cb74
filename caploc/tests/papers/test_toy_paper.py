"""A second paper is a folder, and a rule of one's own is a class: nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caploc.errors import UnknownNameError
from caploc.findings import Bound, Cell, Effect, Finding, Measurement, Outcome, Part, Verdict
from caploc.papers import Claim, PaperError, load_paper, paper_names
from caploc.rules import RULES, IncompleteFindingError, Rule, decisive_p, judge
from caploc.rules.base import Threshold, interval, part

TOY = """
[paper]
key = "toy"
title = "A toy paper"
reference = "nowhere"
level = 0.01

[documents]
paper = "the toy paper"

[margins]
least-loss = 0.1

[[group]]
id = "only"
title = "All of it"
question = "Does it hold?"

[[block]]
id = "table1/toy-model"
table = "table1"
model = "toy-model"
unit = "%"
rows_are = ["method"]
quantity = "accuracy"
columns = ["sums", "words"]
[block.rows]
ours = ["71.5", "60.0"]
"next best" = ["70.0", "61.0"]

[[claim]]
id = "toy-beats"
group = "only"
kind = "comparison"
statement = "Ours beats the next best."
sources = [{ document = "paper", at = "Table 1" }]
quantity = "accuracy, ours minus the next best"
formula = "a - b"
direction = "high"
test = "bootstrap over items"
cells = { table = "table1", method = "ours" }
rule = { kind = "comparison", equivalence_margin = 0.02, detectable = 0.1 }
rule_text = { supported = "above 0", refuted = "not above 0", inconclusive = "otherwise" }
ambiguities = []
controls = []

[[claim]]
id = "toy-well-above"
group = "only"
kind = "bound"
statement = "Ours is well above chance."
sources = [{ document = "paper", at = "Section 1" }]
quantity = "accuracy above chance"
formula = "a - chance"
direction = "high"
test = "bootstrap over items"
margins = { least-loss = 0.2 }
rule = { kind = "well_above", by = 0.3 }
rule_text = { supported = "by 0.3", refuted = "less", inconclusive = "otherwise" }
ambiguities = []
controls = []
"""
CELL = Cell("toy-model", "sums")


@pytest.fixture
def well_above() -> Iterator[None]:
    """A kind of rule that is registered by naming it, here for one test."""

    class WellAbove(Rule, kind="well_above"):
        """The part ``margin``, a Bound, lies above ``by`` / below it."""

        by: Threshold

        def judge(self, claim: Claim, finding: Finding) -> Verdict:
            found = interval(finding, "margin", part(finding, "margin", Bound))
            outcome = Outcome.SUPPORTED if found.low > self.by else Outcome.REFUTED
            return Verdict(outcome, found.shown(self.by))

        def decisive(self, finding: Finding) -> list[float | None]:
            return [one.p for one in finding.measurement.of(Bound).values()]

    yield
    del RULES["well_above"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy = tmp_path / "toy"
    toy.mkdir()
    (toy / "paper.toml").write_text(TOY, encoding="utf-8")
    return toy


def finding_of(claim: str, **parts: Part) -> Finding:
    return Finding(claim, CELL, Measurement("accuracy", Part(0.7, (0.6, 0.8)), parts))


@pytest.mark.usefixtures("well_above")
def test_two_claims_and_a_table_in_a_folder_of_their_own(folder: Path) -> None:
    paper = load_paper(str(folder))
    assert (paper.key, list(paper.claims)) == ("toy", ["toy-beats", "toy-well-above"])
    assert [cell.id for cell in paper.table("table1", method="next best")] == [
        "table1/toy-model/next-best/sums",
        "table1/toy-model/next-best/words",
    ]
    beats, above = paper.claims.values()
    assert (beats.margins, above.margins) == ({"least-loss": 0.1}, {"least-loss": 0.2})
    assert beats.published(CELL) == "71.5" and beats.level == 0.01
    better = Effect(0.1, (0.05, 0.15), (0.06, 0.14), 0.001)
    assert judge(beats, finding_of("toy-beats", one=better)).outcome is Outcome.SUPPORTED
    verdict = judge(above, finding_of("toy-well-above", margin=Bound(0.4, (0.35, 0.45), p=0.02)))
    assert verdict == Verdict(Outcome.SUPPORTED, "margin [0.35, 0.45]")
    assert decisive_p(above, finding_of("toy-well-above", margin=Bound(0.4, (0.35, 0.45), p=0.02))) == 0.02
    with pytest.raises(IncompleteFindingError, match="lacks the part 'margin'"):
        judge(above, finding_of("toy-well-above"))


def test_a_rule_that_nobody_registered_is_unknown(folder: Path) -> None:
    with pytest.raises(
        PaperError, match=r"toy/paper\.toml claim 'toy-well-above' rule: unknown kind 'well_above'"
    ):
        load_paper(str(folder))


def test_a_kind_of_rule_is_named_once() -> None:
    with pytest.raises(TypeError, match="'trend' exists already, Trend"):

        class _Other(Rule, kind="trend"):
            pass


def test_a_folder_is_named_as_its_paper(folder: Path) -> None:
    other = folder.rename(folder.with_name("other"))
    text = TOY[: TOY.index('[[claim]]\nid = "toy-well-above"')]
    (other / "paper.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PaperError, match="the key 'toy' is not the folder's name"):
        load_paper(str(other))


def test_a_folder_without_a_paper_is_none(tmp_path: Path) -> None:
    assert "capability_localization" in paper_names()
    with pytest.raises(UnknownNameError, match=r"there is .*capability_localization.*, or give the path"):
        load_paper(str(tmp_path))
