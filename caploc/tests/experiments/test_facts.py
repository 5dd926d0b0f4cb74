"""Which facts a study takes, in which wordings, and whether the model knows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.errors import DatasetError
from caploc.examples import tokenize
from caploc.experiments import fidelity
from caploc.experiments.evidence import assemble
from caploc.experiments.facts import answers_known, facts_of, load_facts
from caploc.experiments.scaled_facts import ScaledFacts
from caploc.experiments.specs import Need, NotRunError, Plan
from caploc.experiments.study import Study
from caploc.findings import Cell
from caploc.model.loading import load_model
from caploc.store import Store
from caploc.tests.experiments.planted_facts import PAPER, fact_set, settings_of
from caploc.tests.tiny import REPOSITORY, tiny_lm

DATA = str(REPOSITORY / "fixtures" / "data")


@pytest.mark.parametrize(
    ("dataset", "wordings"), [("pararel", 12), ("counterfact", 5), ("zsre", 2), ("known_1000", 1)]
)
def test_facts_of_every_dataset(dataset: str, wordings: int) -> None:
    facts = load_facts(dataset, DATA, seed=0)[0]
    assert len({fact.id for fact in facts}) == len(facts) > 80
    for fact in facts:
        assert len(fact.wordings) == wordings == len({example.prompt for example in fact.wordings})
        assert len({example.id for example in fact.wordings}) == wordings
        assert {example.answer for example in fact.wordings} == {fact.answer}
        assert all(fact.cluster in example.prompt for example in fact.wordings)


def test_the_original_wording_comes_first_and_a_seed_orders_the_rest() -> None:
    records = [json.loads(line) for line in Path(DATA, "counterfact_train.jsonl").read_text().splitlines()]
    own = {f"counterfact-train-{one['case_id']}": one["requested_rewrite"] for one in records}
    facts = load_facts("counterfact", DATA, seed=0)[0]
    for fact in facts:
        assert fact.wordings[0].prompt == own[fact.id]["prompt"].replace("{}", own[fact.id]["subject"])
    first = [fact.id for fact in load_facts("pararel", DATA, seed=0)[0]]
    assert first == [fact.id for fact in load_facts("pararel", DATA, seed=0)[0]]
    assert first != [fact.id for fact in load_facts("pararel", DATA, seed=1)[0]]
    templates = {
        fact.wordings[0].prompt.replace(fact.cluster, "") for fact in load_facts("pararel", DATA, seed=0)[0]
    }
    assert len(templates) > 40, "none of ParaRel's twelve patterns of a relation is the original of all facts"


def own_file(folder: Path, facts: int, wordings: int = 2, **changes: str) -> str:
    """A file of the user's own in the tiny tokenizer's alphabet."""
    rows = [
        {
            "prompt": f"w{w} of {n:02d}?",
            "answer": f" {n % 7}",
            "subject": f"{n:02d}",
            "group": f"g{n}",
            **changes,
        }
        for n in range(facts)
        for w in range(wordings)
    ]
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def study(folder: Path, file: str, **settings: object) -> Study:
    asked = settings_of(files={"mine": file}, store=Store(folder / "store"), **settings)
    return Study("tiny", asked, tiny_lm())


def test_own_facts_share_a_group(tmp_path: Path) -> None:
    found = study(tmp_path, own_file(tmp_path, 60, 3), samples=20).result(facts_of("mine", wordings=2))
    assert len(found) == 20 and len(found.prompts) == 40
    assert np.array_equal(found.fact, np.repeat(np.arange(20), 2)) and np.array_equal(
        found.first, np.arange(20) * 2
    )
    more = study(tmp_path, own_file(tmp_path, 60, 3), samples=30).result(facts_of("mine", wordings=3))
    assert [fact.id for fact in more.facts][:20] == [fact.id for fact in found.facts]
    assert more.facts[0].wordings[:2] == found.facts[0].wordings
    few = more.head(5)
    assert len(few) == 5 and len(few.prompts) == 15 and few.data_fingerprint != more.data_fingerprint


def test_what_cannot_be_compared_is_not_run(tmp_path: Path) -> None:
    single = study(tmp_path, own_file(tmp_path, 60, 1))
    with pytest.raises(
        NotRunError, match=r"mine has each of its \d+ facts in one wording only.*share a group"
    ):
        single.result(facts_of("mine"))
    assert len(single.result(facts_of("mine", wordings=1))) > 16
    with pytest.raises(
        NotRunError, match=r"mine has \d+ facts with the wordings asked for that fit tiny-llama, and 16"
    ):
        study(tmp_path, own_file(tmp_path, 10)).result(facts_of("mine"))
    with pytest.raises(NotRunError, match="holds none of zsre"):
        study(tmp_path, own_file(tmp_path, 40), data_root=str(tmp_path)).result(facts_of("zsre"))
    overlap, claim = fidelity.overlap.with_options(method="kn"), PAPER.claim("fidelity-kn-overlap")
    found = overlap(single, Cell("tiny", "mine"), claim)
    assert found.not_run and "one wording only" in found.not_run
    rows = Path(own_file(tmp_path, 40)).read_text().splitlines()
    rows[0] = rows[0].replace('" 0"', '" 1"')
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=r"group 'g0' has the answers ' 0', ' 1'.*a group of its own"):
        load_facts("mine", str(tmp_path / "mine.jsonl"), 0, split=None)


def test_wordings_too_long_for_the_model_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(own_file(tmp_path, 60, 3)).read_text().splitlines()]
    for row in rows[::6]:
        row["prompt"] += " long" * 40
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = study(tmp_path, str(tmp_path / "mine.jsonl"), samples=30).result(facts_of("mine", wordings=3))
    assert any("prompts of mine left out: longer than the model's context" in note for note in found.notes)
    assert np.bincount(found.fact).min() == 2


def test_ranks_and_probabilities_of_answers() -> None:
    """Against softmax and a sort, for answers of one and of several tokens."""
    lm = tiny_lm("gptj", torch.float64)
    prompts = [tokenize(lm, example) for example in _examples()]
    ranks, logs = answers_known(lm, prompts)
    for prompt, rank, log in zip(prompts, ranks, logs, strict=True):
        with torch.no_grad():
            found = lm.model(input_ids=prompt.input_ids[None]).logits[0].log_softmax(-1)
        places, total = [], 0.0
        for at in range(prompt.answer_start, len(prompt.input_ids)):
            token = int(prompt.input_ids[at])
            places.append(found[at - 1].argsort(descending=True).tolist().index(token) + 1)
            total += float(found[at - 1, token])
        assert (rank, log) == (max(places), pytest.approx(total))


def _examples():
    from caploc.examples import Example

    return [Example(str(n), f"what is {n}?", answer) for n, answer in enumerate((" a", "bc", " 1+2", "?"))]


def test_known_facts_and_kept_prompts() -> None:
    rank = np.array([1, 1, 5, 2, 1, 1, 1, 9, 9])
    facts = fact_set(3, 3, rank=rank)
    assert facts.known.tolist() == [True, False, True]
    assert facts.kept.tolist() == [True, True, False, False, False, False, True, False, False]
    both = fact_set(3, 3, rank=np.array([1, 1, 1, 1, 2, 1, 1, 1, 1]), all_wordings=True)
    assert both.known.tolist() == [True, False, True]


def test_a_second_run_reads_what_the_first_measured(tmp_path: Path) -> None:
    """On real models and facts, end to end; the findings are the same to the last bit, and no weight is touched."""
    settings = settings_of(samples=16, store=Store(tmp_path), data_root=DATA)
    lm, cell = load_model("tiny-llama"), Cell("tiny-llama", "zsre")
    claim, overlap = PAPER.claim("fidelity-kn-overlap"), fidelity.overlap.with_options(method="kn")
    scaling = ScaledFacts(facts_of("zsre", 1))

    def planned() -> tuple[Study, Plan]:
        again = Study("tiny-llama", settings, lm)
        return again, Plan([*overlap.needs(again, cell, claim), Need(again, scaling)])

    def findings(study: Study) -> list[object]:
        found = assemble(claim, cell, overlap(study, cell, claim), [study])
        return [
            found.to_json(),
            {name: values.tolist() for name, values in vars(study.result(scaling)).items()},
        ]

    study, plan = planned()
    assert plan.compute() > 0
    first = findings(study)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again, plan = planned()
    assert plan.compute() == 0

    def weights(*_: object) -> None:
        raise AssertionError("a warm run has no need of weights")

    vars(again)["weights"] = vars(again)["hold"] = weights
    assert findings(again) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == written


@pytest.mark.parametrize(
    ("wordings", "said"), [(2, "2 wordings, 1 pair, "), (3, "3 wordings, 3 pairs, "), (5, "")]
)
def test_fewer_wordings_than_the_papers_are_told(wordings: int, said: str) -> None:
    facts = fact_set(20, wordings)
    told = [note for note in facts.notes if "wordings" in note]
    assert bool(told) == bool(said) and all(
        note.startswith(f"{said}of the 5 and 10 printed") for note in told
    )
    assert facts.settings["wordings"] == wordings
    assert facts.settings["pairs"] == wordings * (wordings - 1) / 2
    assert not [note for note in fact_set(20, 2, all_wordings=True).notes if "wordings" in note]
