"""What ROME's claims are measured on, with small models: edits and traces against direct calls, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.errors import ModelError
from caploc.examples import subject_tokens, tokenize
from caploc.experiments import edited_facts, premises, reliability_rome
from caploc.experiments.edited_facts import (
    CPU_EDITED,
    PROMPT,
    STORED,
    SUBJECT,
    Editable,
    EditableFacts,
    EditsByLayer,
    FactTraces,
    LayerEdits,
    editing_of,
    noised_elsewhere,
    ridge_of,
)
from caploc.experiments.specs import Need, NotRunError, Plan
from caploc.experiments.study import Study
from caploc.findings import Outcome, Verdict
from caploc.interventions.rank_one import draw_prefixes, edit_all_layers, key_covariance, score_edit
from caploc.locators.causal_tracing.trace import Tracing, draw_noise, embedding_deviation
from caploc.store import Store
from caploc.tests.experiments.planted_facts import run, settings_of
from caploc.tests.tiny import tiny_lm


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Facts of the user's own in two wordings, every eighth of which does not name its subject."""
    rows = [
        {
            "prompt": f"{text} {number:02d} is" if number % 8 else f"{text} it is",
            "answer": f" {'abc'[number % 3]}",
            "subject": f"{number:02d}",
            "group": f"g{number}",
        }
        for number in range(60)
        for text in ("the town of", "where")
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def study_of(file: str, family: str = "llama", **options: object) -> Study:
    settings = settings_of(
        files={"mine": file}, datasets=["mine"], samples=30, store=Store(Path(file).parent / "store")
    )
    return Study("tiny", replace(settings, **options), tiny_lm(family))


def editable(study: Study) -> EditableFacts:
    return study.result(Editable("mine"))


def known(study: Study, count: int) -> EditableFacts:
    """With so many facts counted as known, and two edited."""
    found = editable(study)
    rank = np.where(np.arange(len(found.facts)) < count, 1, 2)
    return replace(found, facts=replace(found.facts, rank=rank), most=2)


def edits_of(study: Study, found: EditableFacts) -> LayerEdits:
    """The edits of ``found`` in the place of the study's own."""
    planted = Study(study.model, study.settings, study.lm, {Editable("mine"): found})
    return planted.result(EditsByLayer("mine"))


def test_facts_without_edits_of_their_own_are_edited_to_another_facts_answer(file: str) -> None:
    study = study_of(file, samples=48)
    found = editable(study)
    assert found.most == 48 and 16 <= len(found.facts) == len(found.requests) < 48
    assert any("no subject in the prompt" in note for note in found.facts.left_out)
    for fact, request, prompt in zip(found.facts.facts, found.requests, found.facts.prompts, strict=True):
        assert (
            request.id == fact.id and request.subject in request.prompt and prompt.id == fact.wordings[0].id
        )
        assert request.target_true == fact.answer != request.target_new
        assert len(request.paraphrases) == 1 and request.prompt not in request.paraphrases
        assert request.neighbours == ()
    assert editable(study_of(file, samples=None)).most == CPU_EDITED


def test_too_few_facts_with_subjects_are_not_run(file: str) -> None:
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    Path(file).write_text("\n".join(json.dumps({**row, "subject": "nobody"}) for row in rows))
    with pytest.raises(NotRunError, match="mine has 0 of 30 facts that name their subject"):
        editable(study_of(file))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_edits_are_those_of_the_library_and_are_kept(
    family: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(file, family)
    lm, found = study.lm, known(study, 24)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    edits = edits_of(study, found)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert len(edits) == 2 and edits.num_layers == lm.num_layers

    texts = [one.prompt + one.answer for one in study.located("mine").examples]
    covariance = key_covariance(lm, texts, ridge=ridge_of(lm))
    editing = editing_of(study)
    assert editing.prefixes == draw_prefixes(lm, editing.prefix_tokens, 0)
    for row, number in enumerate(found.edited):
        request = found.requests[number]
        for token in (SUBJECT, PROMPT):
            made = edit_all_layers(lm, request, covariance, editing=replace(editing, token=token))
            scores = [score_edit(lm, request)]
            for edit in made.values():
                with edit.applied(lm):
                    scores.append(score_edit(lm, request))
            for name in STORED:
                expected = [getattr(score, name) for score in scores]
                column = edits.of(name, token)[row]
                if name == "neighbourhood":
                    assert expected == [None] * len(scores) and np.isnan(column).all()
                else:
                    assert column == pytest.approx(expected, abs=1e-6)
    assert np.isnan(edits.mean("harmonic mean")).all()
    assert edits.of("magnitude") == pytest.approx(np.exp(edits.of("new")) - np.exp(edits.of("true")))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("edited again")

    monkeypatch.setattr(edited_facts, "edit_all_layers", fail)
    monkeypatch.setattr(edited_facts, "key_covariance", fail)
    assert np.array_equal(edits_of(study_of(file, family), found).of("new"), edits.of("new"))
    monkeypatch.setattr(edited_facts, "editing_of", lambda *_: replace(editing, steps=3))
    with pytest.raises(AssertionError, match="edited again"):
        edits_of(study_of(file, family), found)


def test_a_model_that_cannot_be_edited_is_not_run(file: str) -> None:
    study = study_of(file)
    found = known(study, 24)
    study.lm.model.to(torch.bfloat16)
    with pytest.raises(NotRunError, match="load tiny-llama with dtype float32"):
        edits_of(study, found)


def test_a_model_that_no_prefix_can_be_drawn_from_is_not_run(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise ModelError("has no token that begins a sequence")

    monkeypatch.setattr(edited_facts, "draw_prefixes", none)
    study = study_of(file)
    assert Plan([Need(study, EditsByLayer("mine"))]).compute() == 1  # what the model answers
    assert study.settings.store.describe().entries == 1
    for experiment, claim in (
        (reliability_rome.rome_ipp, "reliability-rome-ipp"),
        (premises.rome_corruption, "bg-rome-corruption"),
    ):
        _, verdict = run(experiment, study, claim, dataset="mine")
        assert verdict == Verdict(Outcome.NOT_RUN, "has no token that begins a sequence")


def test_traces_of_all_facts(file: str) -> None:
    study = study_of(file)
    found = known(study, 24)
    planted = Study("tiny", study.settings, study.lm, {Editable("mine"): found})
    traces = planted.result(FactTraces("mine"))
    assert traces.restored.shape == (len(found.facts), study.lm.num_layers)
    assert traces.right_noised.shape == traces.right_elsewhere.shape == (len(found.facts), Tracing().draws)
    first = np.array(
        [
            int(study.lm.model(prompt.input_ids[None, : prompt.answer_start]).logits[0, -1].argmax())
            == int(prompt.answer_ids[0])
            for prompt in found.facts.prompts
        ]
    )
    assert np.array_equal(traces.right, first)


@torch.no_grad()
def test_noise_elsewhere_spares_the_subject_and_special_tokens(file: str) -> None:
    """By what is fed into the model: the subject's own noise, at as many other places."""
    study = study_of(file)
    lm, tracing = study.lm, Tracing(draws=3)
    special, seen = set(lm.tokenizer.all_special_ids), []

    def look(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs.get("inputs_embeds") is not None:
            seen.append(kwargs["inputs_embeds"])

    size = 3 * embedding_deviation(lm.model.get_input_embeddings())
    for fact in editable(study).facts.facts[:12]:
        prompt, subject = tokenize(lm, fact.wordings[0]), subject_tokens(lm, fact.wordings[0])
        with lm.model.model.register_forward_pre_hook(look, with_kwargs=True):
            found = noised_elsewhere(lm, prompt, subject, tracing)
        fed = seen.pop()
        added = fed - lm.model.get_input_embeddings()(prompt.prompt_ids)
        changed = (added.abs() > 0).any(-1).any(0).nonzero()[:, 0].tolist()
        assert len(changed) == len(subject) and not set(changed) & set(subject)
        assert not {int(prompt.prompt_ids[place]) for place in changed} & special
        noise = draw_noise(0, prompt.id, 3, len(subject), fed.shape[-1])
        sums = (size * noise).sum((1, 2)).tolist()
        assert added.sum((1, 2)).tolist() == pytest.approx(sums, abs=1e-3)
        tops = lm.model(inputs_embeds=fed).logits[:, -1].argmax(-1)
        assert found.tolist() == (tops == prompt.answer_ids[0]).tolist()
