"""The editing benchmark: how much faster are the values of all layers of a fact sought together than layer by layer,
and do edits take and stay where they belong?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import MappingProxyType

import torch
from tqdm import tqdm

import caploc
from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Rounds, check_same
from caploc.benchmarks.models import DATA, VOCABULARY, random_llama
from caploc.benchmarks.tables import Table, Value, at_least
from caploc.datasets.edits import EditRequest, load_edits
from caploc.interventions.rank_one.covariance import KeyCovariance, key_covariance
from caploc.interventions.rank_one.edit import edit_all_layers
from caploc.interventions.rank_one.prompts import (
    Editing,
    EditPrompt,
    EditPrompts,
    Token,
    draw_prefixes,
    edit_prompts,
)
from caploc.interventions.rank_one.scores import EditScore, score_edit, summarize_edits
from caploc.interventions.rank_one.value import find_values, record
from caploc.model.loading import LanguageModel, load_model
from caploc.rows.borrowing import frozen_eval
from caploc.tests.oracles.rank_one import reference_delta, reference_key

TOKENS: tuple[Token, ...] = ("last-subject", "last-prompt")
_SUBJECT, _BEHIND = 12, 6
_CORPUS = ("counterfact", "zsre", "gsm8k", "imdb", "emotion", "code25k")
_RIDGE = 1e-4

# Losses of the same search in float32 drift apart by Adam's division by small gradients, not by more than this.
_SAME = 0.01

Losses = list[tuple[float, ...]]


@dataclass(frozen=True)
class Sizes:
    """``random`` Llamas by layers and width; ``embedded`` models; ``facts`` that are edited to see whether it takes;
    ``texts`` of each dataset for the covariance; ``steps`` of the search for a value when it is timed.

    ``least_ratio`` by the token that is edited is what caploc promises of each model.
    """

    random: tuple[tuple[int, int], ...]
    embedded: tuple[str, ...]
    facts: int
    texts: int
    steps: int
    least_ratio: Mapping[Token, float]


FULL = Sizes(
    random=((8, 256),),
    embedded=("tiny-llama", "tiny-gptj"),
    facts=48,
    texts=200,
    steps=20,
    least_ratio=MappingProxyType({"last-subject": 3.0, "last-prompt": 3.0}),
)

QUICK = Sizes(
    random=((2, 32),), embedded=("tiny-llama",), facts=1, texts=10, steps=2, least_ratio=MappingProxyType({})
)


@dataclass(frozen=True)
class Contest:
    """One fact of one model, whose keys and values of all layers are sought either way."""

    lm: LanguageModel
    prompts: EditPrompts
    editing: Editing

    def together(self) -> Losses:
        """All layers in one batch."""
        lm, prompts = self.lm, self.prompts
        with frozen_eval(lm.model):
            recorded = record(lm, prompts)
            found = find_values(lm, prompts, recorded, range(lm.num_layers), self.editing, "benchmark")
        return [value.losses for value in found.values()]

    def one_by_one(self) -> Losses:
        """Every layer by itself, over whole sequences."""
        losses = []
        for layer in range(self.lm.num_layers):
            reference_key(self.lm, self.prompts, layer)
            losses.append(tuple(reference_delta(self.lm, self.prompts, layer, self.editing)[1]))
        return losses


def random_case(layers: int, width: int, token: Token) -> tuple[LanguageModel, EditPrompts]:
    """A prompt of 18 random tokens, the twelfth of them the subject's last, an answer of one, and the default
    prefixes' lengths."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, VOCABULARY, (64,), generator=generator)
    prompt, front = drawn[: _SUBJECT + _BEHIND], drawn[32:]

    def behind(prefix: int) -> EditPrompt:
        fed = torch.cat([front[:prefix], prompt])
        last = len(fed) - 1
        edited = prefix + _SUBJECT - 1 if token == "last-subject" else last
        return EditPrompt(fed, edited, range(last, last + 1))

    essence = torch.cat([prompt[_SUBJECT // 2 : _SUBJECT], drawn[-2:]])
    last = len(essence) - 1
    about = EditPrompt(essence, last - 2 if token == "last-subject" else last, range(last, last + 1))
    rewriting = tuple(behind(length) for length in (0, *Editing().prefix_tokens))
    return random_llama(layers, width), EditPrompts(rewriting, about, drawn[-3:-2])


def _embedded_case(name: str, token: Token) -> tuple[LanguageModel, EditPrompts]:
    """A fact of the embedded COUNTERFACT behind drawn prefixes."""
    lm = load_model(name)
    return lm, edit_prompts(lm, _requests(1)[0], draw_prefixes(lm, Editing().prefix_tokens), token)


def _requests(facts: int) -> list[EditRequest]:
    """Facts of the embedded COUNTERFACT, with other facts' objects as new answers."""
    return load_edits("counterfact", DATA, "evaluate", limit=facts)


def measure_speed(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row for each model and edited token."""
    table = Table("speed", "CPU time of the edits of all layers of one fact")
    table.notes = [
        (
            f"keys and values, {sizes.steps} steps, float32; without the drawing of prefixes, the covariance and the "
            "closed-form update, which cost both ways the same"
        ),
        "difference of losses: the largest, over the largest loss",
        "one by one: caploc.tests.oracles.rank_one, whole sequences of all prompts in one batch, one hook",
    ]
    for token in TOKENS:
        for name, make in _cases(sizes, token).items():
            row = table.made(name, partial(_speed_row, name, token, make, sizes, options.repeat))
            table.rows += [] if row is None else [row]
    yield table


def _cases(sizes: Sizes, token: Token) -> dict[str, Callable[[], tuple[LanguageModel, EditPrompts]]]:
    drawn = {
        f"random-llama-{layers}x{width}": partial(random_case, layers, width, token)
        for layers, width in sizes.random
    }
    return {**drawn, **{name: partial(_embedded_case, name, token) for name in sizes.embedded}}


def _speed_row(
    name: str,
    token: Token,
    make: Callable[[], tuple[LanguageModel, EditPrompts]],
    sizes: Sizes,
    repeat: int,
) -> dict[str, Value]:
    # without an early stop, so that both do the same number of steps
    contest = Contest(*make(), Editing(steps=sizes.steps, stop_loss=0.0))
    # untimed: what is made once only is made now
    error = _difference(contest.together(), contest.one_by_one())
    check_same(error, _SAME, "losses together and one by one", "of the largest", "interventions")
    rounds = Rounds()
    for _ in rounds.over(range(repeat), name):
        rounds.time("together", contest.together)
        rounds.time("one by one", contest.one_by_one)
    ratio = rounds.ratio("one by one", "together")
    return {
        "model": name,
        "edited token": token,
        "tokens fed": sum(len(prompt.fed) for prompt in contest.prompts.all),
        "one by one / together": ratio,
        **at_least(ratio, sizes.least_ratio.get(token)),
        "together s": rounds.seconds("together"),
        "one by one s": rounds.seconds("one by one"),
        "difference of losses": error,
    }


def _difference(ours: Losses, theirs: Losses) -> float:
    """The largest difference over the largest loss; infinite where the number of steps differs."""
    if [len(own) for own in ours] != [len(own) for own in theirs]:
        return math.inf
    pairs = list(zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True))
    return max(abs(own - other) for own, other in pairs) / max(abs(other) for _, other in pairs)


def measure_success(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row for each model, edited token and layer; layer ``-`` is the model before any edit."""
    table = Table("success", f"Do edits take? {sizes.facts} facts of the embedded COUNTERFACT")
    table.notes = [
        "efficacy: the new answer is more probable than the true one; exact: greedy decoding gives it",
        (
            f"covariance of keys: embedded texts, ridge {_RIDGE:g} (GPT-J's first MLP sees the token alone, so that "
            "its keys span no more than the corpus has distinct tokens)"
        ),
    ]
    corpus = [
        example.prompt + example.answer
        for name in _CORPUS
        for example in caploc.load_examples(name, DATA, "locate", limit=sizes.texts)
    ]
    for name in sizes.embedded:
        lm = table.made(name, partial(load_model, name))
        if lm is None:
            continue
        covariance = key_covariance(lm, corpus, ridge=_RIDGE)
        before = [score_edit(lm, request) for request in _requests(sizes.facts)]
        table.rows.append(_success_row(name, None, None, before))
        for token in TOKENS:
            for layer, scores in _scores(lm, covariance, token, sizes).items():
                table.rows.append(_success_row(name, token, layer, scores))
    yield table


def _scores(
    lm: LanguageModel, covariance: KeyCovariance, token: Token, sizes: Sizes
) -> dict[int, list[EditScore]]:
    editing = Editing(token=token, prefixes=draw_prefixes(lm, Editing().prefix_tokens))
    found: dict[int, list[EditScore]] = {layer: [] for layer in range(lm.num_layers)}
    title = f"{lm.name} {token}"
    for request in tqdm(_requests(sizes.facts), desc=title, unit="fact", disable=None, leave=False):
        for layer, edit in edit_all_layers(lm, request, covariance, editing=editing).items():
            with edit.applied(lm):
                found[layer].append(score_edit(lm, request))
    return found


def _success_row(
    model: str, token: Token | None, layer: int | None, scores: list[EditScore]
) -> dict[str, Value]:
    summary = summarize_edits(scores)
    names = ("efficacy", "exact", "paraphrase", "neighbourhood", "harmonic")
    shares = {name: getattr(summary, name) for name in names}
    percent = {f"{name} %": None if share is None else 100 * share for name, share in shares.items()}
    return {"model": model, "edited token": token, "layer": layer, **percent}
