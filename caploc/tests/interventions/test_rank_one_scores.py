"""Scores of edits: counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from caploc.datasets.edits import EditRequest, Neighbour
from caploc.errors import OptionError
from caploc.examples import Example, tokenize
from caploc.interventions.rank_one import EditScore, answer_scores, score_edit, scores, summarize_edits
from caploc.model.loading import LanguageModel
from caploc.tests.tiny import tiny_lm

REQUEST = EditRequest(
    "f1",
    "in the town of ab cd lives",
    "ab cd",
    " xyz",
    " q",
    ("where is ab cd?", "cd", "ab cd it is"),
    (Neighbour("of ef", " q"), Neighbour("who is gh", " abc")),
)


def _log_prob(lm: LanguageModel, prompt: str, answer: str) -> tuple[float, bool]:
    tokenized = tokenize(lm, Example("x", prompt, answer))
    with torch.no_grad():
        logits = lm.model(input_ids=tokenized.input_ids[None]).logits[0].double()
    total, greedy = 0.0, True
    for place, token in enumerate(tokenized.answer_ids.tolist(), start=tokenized.answer_start - 1):
        total += float(logits[place].log_softmax(-1)[token])
        greedy = greedy and int(logits[place].argmax()) == token
    return total / tokenized.num_answer_tokens, greedy


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
@pytest.mark.parametrize("chunk", [1, 4096])
def test_scores_are_those_of_single_runs(family: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_CHUNK_TOKENS", chunk)
    lm = tiny_lm(family)
    prompts = (REQUEST.prompt, *REQUEST.paraphrases)
    wins = [_log_prob(lm, prompt, " xyz")[0] > _log_prob(lm, prompt, " q")[0] for prompt in prompts]
    kept = [_log_prob(lm, *own)[0] > _log_prob(lm, own.prompt, " xyz")[0] for own in REQUEST.neighbours]
    found = score_edit(lm, REQUEST)
    assert (found.efficacy, found.paraphrase, found.neighbourhood) == (
        wins[0],
        sum(wins[1:]) / 3,
        sum(kept) / 2,
    )
    new, greedy = _log_prob(lm, REQUEST.prompt, " xyz")
    assert found.new == pytest.approx(new, abs=1e-5) and found.exact == float(greedy)
    true, recalled = _log_prob(lm, REQUEST.prompt, " q")
    assert found.true == pytest.approx(true, abs=1e-5) and found.recalled == recalled


def test_greedy_means_every_token() -> None:
    lm = tiny_lm()
    tried = 0
    for prompt in "abcdefghijklm":
        tokens = tokenize(lm, Example("x", prompt, "c")).prompt_ids
        with torch.no_grad():
            ids = lm.model.generate(tokens[None], max_new_tokens=2, do_sample=False)[0, len(tokens) :]
        characters = lm.tokenizer.convert_ids_to_tokens(ids)
        if all(token is not None and len(token) == 1 for token in characters):  # else there is no text for it
            answer = "".join(characters)
            examples = [
                Example("x", prompt, text) for text in (answer, f"{answer[0]}{'ab'[answer[1] == 'a']}")
            ]
            assert [score.greedy for score in answer_scores(lm, examples)] == [True, False]
            tried += 1
    assert tried


def test_what_a_request_does_not_tell_is_none() -> None:
    lm = tiny_lm()
    bare = replace(REQUEST, target_true=None)
    found, whole = score_edit(lm, bare), score_edit(lm, REQUEST)
    assert (found.efficacy, found.paraphrase, found.recalled, found.true, found.harmonic) == (None,) * 5
    assert found.neighbourhood == whole.neighbourhood and found.new == pytest.approx(whole.new, abs=1e-5)
    alone = score_edit(lm, replace(REQUEST, paraphrases=(), neighbours=()))
    assert (alone.efficacy, alone.paraphrase, alone.neighbourhood) == (whole.efficacy, None, None)


def test_a_summary_takes_means_and_their_harmonic_mean() -> None:
    some = [
        EditScore("a", 1.0, 0.5, 1.0, 1.0, True, -0.1, -3.0),
        EditScore("b", 0.0, None, 0.5, 0.0, True, -4.0, -0.1),
        EditScore("c", None, None, 0.0, 1.0, None, -4.0, None),
    ]
    summary = summarize_edits(some)
    assert (summary.efficacy, summary.paraphrase, summary.neighbourhood) == (0.5, 0.5, 0.5)
    assert summary.exact == pytest.approx(2 / 3) and summary.harmonic == pytest.approx(0.5)
    assert summary.counts == {"efficacy": 2, "paraphrase": 1, "neighbourhood": 3, "exact": 3}
    assert some[0].harmonic == pytest.approx(0.75) and some[1].harmonic is None
    assert replace(some[0], paraphrase=0.0).harmonic == 0
    with pytest.raises(OptionError, match="no score of an edit to summarize"):
        summarize_edits([])
