"""What is measured: facts of the embedded models, and random tokens on a larger Llama with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

import caploc
from caploc.benchmarks.attribution.sizes import VOCABULARY, bench_llama
from caploc.datasets.edits import EditRequest, load_edits
from caploc.interventions.rank_one.prompts import (
    Editing,
    EditPrompt,
    EditPrompts,
    Token,
    draw_prefixes,
    edit_prompts,
)
from caploc.models import LanguageModel, load_model

DATA = Path(caploc.__file__).resolve().parent.parent / "fixtures" / "data"
TOKENS: tuple[Token, ...] = ("last-subject", "last-prompt")
_SUBJECT, _BEHIND = 12, 6
_CORPUS = ("counterfact", "zsre", "gsm8k", "imdb", "emotion", "code25k")


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


def random_case(layers: int, width: int, token: Token) -> tuple[LanguageModel, EditPrompts]:
    """A prompt of 18 random tokens, the twelfth of them the subject's last, an answer of one, and the default
    prefixes' lengths."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, VOCABULARY, (64,), generator=generator)
    prompt, front = drawn[: _SUBJECT + _BEHIND], drawn[32:]

    def behind(prefix: int) -> EditPrompt:
        fed = torch.cat([front[:prefix], prompt])
        last = len(fed) - 1
        return EditPrompt(
            fed, prefix + _SUBJECT - 1 if token == "last-subject" else last, range(last, last + 1)
        )

    essence = torch.cat([prompt[_SUBJECT // 2 : _SUBJECT], drawn[-2:]])
    last = len(essence) - 1
    about = EditPrompt(essence, last - 2 if token == "last-subject" else last, range(last, last + 1))
    rewriting = tuple(behind(length) for length in (0, *Editing().prefix_tokens))
    return bench_llama(layers, width), EditPrompts(rewriting, about, drawn[-3:-2])


def embedded_case(name: str, token: Token) -> tuple[LanguageModel, EditPrompts]:
    """A fact of the embedded COUNTERFACT behind drawn prefixes."""
    lm = load_model(name)
    prefixes = draw_prefixes(lm, Editing().prefix_tokens)
    return lm, edit_prompts(lm, requests(1)[0], prefixes, token)


def requests(facts: int) -> list[EditRequest]:
    """Facts of the embedded COUNTERFACT, with other facts' objects as new answers."""
    return load_edits("counterfact", DATA, "evaluate", limit=facts)


def corpus(texts: int) -> list[str]:
    """Prompts with answers, so many of each embedded dataset, for the covariance of keys."""
    return [
        example.prompt + example.answer
        for name in _CORPUS
        for example in caploc.load_examples(name, DATA, "locate", limit=texts)
    ]
