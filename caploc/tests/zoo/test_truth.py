"""What is true of the claims on the zoo's models agrees with their gates, the papers and what was recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.audit.views import RunView
from caploc.benchmarks import truth as benchmark
from caploc.datasets.loading import load_examples
from caploc.errors import ModelError, OptionError, UnknownNameError
from caploc.evaluation import evaluate, prepare
from caploc.findings import Outcome
from caploc.papers import load_paper, paper_names
from caploc.statistics import binomial_interval
from caploc.zoo import load_zoo_model, task_examples, zoo_names
from caploc.zoo.__main__ import main
from caploc.zoo.truth import (
    Characteristic,
    Recorded,
    Tried,
    cells_of_known_truth,
    characteristics,
    known_truth,
    recorded,
    rule_as_data,
)
from caploc.zoo.unpacking import FACTS, ITEMS, unpack_zoo_model

CLAIMS = {claim for name in paper_names() for claim in load_paper(name).claims}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A zoo's folder with nothing but what a test puts there."""
    monkeypatch.setattr("caploc.zoo.truth.zoo_folder", lambda: tmp_path)
    known_truth.cache_clear()
    recorded.cache_clear()
    yield tmp_path
    known_truth.cache_clear()
    recorded.cache_clear()


# ------------------------------------------------------------------------------------------------------- what is true


def test_every_claim_named_is_one_and_no_claim_is_both_tried_and_not() -> None:
    known = known_truth()
    tried = {claim.id for claim in known.claims}
    assert tried | known.untried.keys() <= CLAIMS and not tried & known.untried.keys()
    assert all(claim.because.strip() for claim in known.claims) and all(known.untried.values())
    for claim in known.claims:
        assert claim.holds or claim.fails
        assert not set(claim.holds) & set(claim.fails)


def test_groups_are_of_models_whose_gates_say_what_their_truth_rests_on() -> None:
    groups = known_truth().groups
    assert set(groups["trained in"].models()) == {*zoo_names("trained"), *zoo_names("shared")}
    assert all("-r1-" in name or "-r2-" in name for name in groups["written"].models())
    assert len(groups["written"].models()) == 12 and len(groups["spread"].models()) == 6
    with pytest.raises(ModelError, match=r"untrained-llama-s0 loses 0.00 by brute-force erasure"):
        dataclasses.replace(groups["untrained"], loses=(0.5, 1.0)).models()


def test_a_claim_cannot_name_a_group_that_is_not_there(elsewhere: Path) -> None:
    text = 'paper = "p"\ngroup = []\nuntried = []\n[[claim]]\nid = "c"\nholds = ["nowhere"]\nbecause = "b"\n'
    (elsewhere / "truth.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="claim 'c' names a group 'nowhere'"):
        known_truth()


@pytest.mark.parametrize("name", zoo_names("shared"))
def test_either_shared_task_falls_without_the_neurons_of_the_other(name: str) -> None:
    """By brute force: what the claims across datasets are true by."""
    model = load_zoo_model(name)
    (partner,) = (one for one in zoo_names("shared") if one != name)
    other = load_zoo_model(partner).evaluation
    prepared = prepare(model.lm, "other", other, "label")
    base, without = evaluate(
        model.lm, prepared, torch.stack([torch.zeros_like(model.neurons), model.neurons])
    ).score
    assert base.mean() > 0.9 and without.mean() < base.mean() - 0.1


# -------------------------------------------------------------------------------------------------- what was recorded


def test_what_was_recorded_is_every_cell_that_truth_speaks_of_and_no_other() -> None:
    found = recorded()
    assert found is not None and found.commit and found.date
    asked = [cell for _, cell in cells_of_known_truth()]
    assert [dataclasses.replace(one, outcome="", estimate=None) for one in found.tried] == asked
    assert {one.outcome for one in found.tried} <= {outcome.value for outcome in Outcome}


def test_what_was_recorded_was_judged_by_the_rules_that_there_are() -> None:
    """Where a rule has changed since: ``python -m caploc.benchmarks truth``."""
    found, paper = recorded(), load_paper(known_truth().paper)
    assert found is not None
    assert found.rules == {
        claim.id: rule_as_data(paper.claim(claim.id).rule) for claim in known_truth().claims
    }


def test_located_against_random_is_never_supported_where_nothing_is_planted() -> None:
    """And where something is, it is refuted only of located sets that cost less than 5 points by brute force: what is
    planted was not found."""
    found = recorded()
    assert found is not None
    cells = [one for one in found.tried if one.claim == "table3-located-hurts-more-each"]
    assert not [one for one in cells if one.wrong and not one.holds]
    refuted = [one for one in cells if one.wrong]
    assert all(one.estimate is not None and one.estimate < 0.05 for one in refuted)
    assert len(refuted) < 0.05 * len(cells)


def test_the_report_shows_it_beside_the_rule_of_the_papers_own_claims() -> None:
    paper = load_paper(known_truth().paper)
    view = RunView(paper, [])
    lines = view.on_known_truth(paper.claim("table3-located-hurts-more-each"))
    assert lines[0].startswith("trained in at sigma 3 (true there): power ") and "false REFUTED" in lines[0]
    assert any("false SUPPORTED 0 of 6 [0, 46] %" in line for line in lines)
    assert lines[-1].startswith("recorded at ")
    assert view.on_known_truth(paper.claim("table1-iou")) == []
    other = load_paper("query_localization")
    assert RunView(other, []).on_known_truth(next(iter(other.claims.values()))) == []


def test_counts_and_intervals_are_those_of_the_cells() -> None:
    cells = [
        Tried("c", "g", f"m{number}", 6.0, False, True, outcome)
        for number, outcome in enumerate(["SUPPORTED"] * 8 + ["REFUTED"] + ["NOT RUN"])
    ]
    (one,) = characteristics(cells)
    assert (one.n, one.share(Outcome.SUPPORTED)[0], one.share(Outcome.REFUTED)[0]) == (10, 8, 1)
    exact = binomial_interval(8, 10)
    assert one.share(Outcome.SUPPORTED)[1] == exact
    ends = f"[{100 * exact.low:.0f}, {100 * exact.high:.0f}] %"
    shown = f"g at sigma 6 (true there): power 8 of 10 {ends}, false REFUTED 1"
    assert one.words.startswith(shown)
    false = Characteristic("c", "g", None, True, False, {"SUPPORTED": 1, "REFUTED": 3})
    assert false.words.startswith("g, prompts resampled (false there): rightly REFUTED 3 of 4")
    assert [cell.wrong for cell in cells] == [False] * 8 + [True, False]
    assert [cell.decided for cell in cells] == [True] * 9 + [False]


def test_a_record_is_read_as_it_was_written_and_speaks_of_its_rules_alone(elsewhere: Path) -> None:
    rule = load_paper("capability_localization").claim("table1-overlap").rule
    cells = (Tried("table1-overlap", "untrained", "m", 6.0, False, False, "REFUTED", 0.25),)
    Recorded("abc", "2026-01-01", {"table1-overlap": rule_as_data(rule)}, cells).write(
        elsewhere / "verdicts.json"
    )
    found = recorded()
    assert found is not None and found.tried == cells
    assert [one.counts for one in found.of("table1-overlap", rule)] == [{"REFUTED": 1}]
    other = rule.model_copy(update={"supported_above": 0.81})
    assert found.of("table1-overlap", other) == [] and found.of("table1-iou", rule) == []


def test_nothing_is_recorded_of_a_zoo_that_is_being_made(elsewhere: Path) -> None:
    assert recorded() is None


# -------------------------------------------------------------------------------------------------------------- files


def test_an_unpacked_model_is_the_model_and_its_datasets_are_the_tasks(tmp_path: Path) -> None:
    from caploc.model.loading import load_model

    found = unpack_zoo_model("written-llama-r1-s0", tmp_path)
    planted = load_zoo_model("written-llama-r1-s0")
    lm = load_model(found.model)
    assert lm.fingerprint == planted.lm.fingerprint
    for split, own in (("locate", planted.examples), ("evaluate", planted.evaluation)):
        loaded = load_examples(found.task, tmp_path, split)
        assert {(one.prompt, one.answer, one.group) for one in loaded} == {
            (one.prompt, one.answer, one.group) for one in own
        }
        alone = load_examples(ITEMS, tmp_path, split)
        assert {one.prompt for one in alone} == {one.prompt for one in own} and {
            one.group for one in alone
        } == {None}
    assert found.beside == "lives" and len(load_examples("lives", tmp_path, "evaluate")) == len(
        task_examples("lives", "evaluation")
    )
    facts = load_examples(FACTS, tmp_path, "locate")
    assert len(facts) == len(planted.examples) + len(planted.evaluation)
    assert len({one.group for one in facts}) == 56 and len({one.subject for one in facts}) == 12
    assert len({(one.group, one.answer) for one in facts}) == 56  # one answer a group
    with pytest.raises(OptionError, match="exists; name another folder"):
        unpack_zoo_model("written-llama-r1-s0", tmp_path)


def test_a_task_without_subjects_has_no_facts_and_a_shared_model_has_its_partner_beside(
    tmp_path: Path,
) -> None:
    assert unpack_zoo_model("shared-llama-likes", tmp_path / "a").beside == "moods-llama-0-of-12"
    with pytest.raises(UnknownNameError, match="no task 'summs'"):
        task_examples("summs")


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["untrained-llama-s0", str(tmp_path)]) == 0
    datasets = "likes-llama-0-of-12,lives"
    asked = f"--model {tmp_path}/untrained-llama-s0 --data-root {tmp_path} --dataset {datasets}"
    assert capsys.readouterr().out == f"pytest claims {asked}\n"
    assert main(["untrained-llama-s0", str(tmp_path)]) == 2 and "exists" in capsys.readouterr().err
    assert main(["untrained-lama-s0", str(tmp_path)]) == 2
    assert "did you mean 'untrained-llama-s0'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- end to end


def test_a_cell_ends_as_it_does_under_pytest(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """Weights in, verdict out: the benchmark and ``pytest claims`` on the unpacked files."""
    store = tmp_path / "store"
    unpacked = unpack_zoo_model("written-llama-r1-s1", tmp_path)
    known, cell = next(
        (known, cell)
        for known, cell in cells_of_known_truth()
        if cell.model == "written-llama-r1-s1"
        and known.id == "table3-located-hurts-more-each"
        and cell.sigma == 3
    )
    finding, _ = benchmark.finding_of(known, cell, unpacked, {}, str(store))
    tests = benchmark.HOME / "claims" / known_truth().paper / "test_erasure.py"
    pytester.runpytest_inprocess(
        f"{tests}::test_erasing_located_neurons_hurts_more_on_a_dataset",
        *f"--model {unpacked.model} --data-root {unpacked.data} --dataset {unpacked.task}".split(),
        *f"--sigma 3 --store {store} -p no:cacheprovider --html {tmp_path}/report.html".split(),
    )
    (line,) = [
        one
        for one in map(json.loads, (tmp_path / "report.jsonl").read_text(encoding="utf-8").splitlines())
        if one.get("type") == "finding"
    ]
    judged = line["finding"]["estimate"]
    assert finding.measurement.value is not None
    assert np.isclose(judged, finding.measurement.value.estimate)
    assert line["status"] == "SUPPORTED"
