"""How answers are scored, the ways by name (ambiguities ``gsm8k-scoring`` and ``code-score``), and a dataset made ready
to be evaluated: tokenized and checked once, for as many models' states as one likes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import permutations
from types import MappingProxyType
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from caploc.datasets import DATASETS
from caploc.errors import DatasetError, ExampleError, OptionError, UnknownNameError, UnscorableError
from caploc.evaluation.generating import Ends, Writer
from caploc.evaluation.numbers import final_answer, same_answer
from caploc.examples import Example, Exclusion, TokenizedExample, fit, tokenize
from caploc.model.loading import LanguageModel

LETTERS = ("A", "B", "C", "D")
LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: dataset.labels for name, dataset in DATASETS.items() if dataset.labels}
)
"""Dataset -> its labels, where the answers are labels."""
_DEFAULTS_OF_TASKS = {"program": "tokens"}
MOST_LABELS = 20
"""More different answers than these are not taken for labels, unless they are named."""


@dataclass(frozen=True)
class Scoring:
    """One way to score.

    name     what ``prepare`` calls it
    reads    ``text``: what greedy generation gives; ``labels``: the likelihood of each label; ``tokens``: the
             predictions of the reference's tokens, each after the reference tokens before it
    summary  one line for reports
    of_text  for ``text``: (generated, reference) -> score from 0 to 1
    """

    name: str
    reads: Literal["text", "labels", "tokens"]
    summary: str
    of_text: Callable[[str, str], float] = lambda generated, reference: 0.0

    @property
    def needs_labels(self) -> bool:
        return self.name in ("label", "label_text", "option")


def _exact(generated: str, reference: str) -> float:
    return float(generated.strip() == reference.strip())


def _bleu(generated: str, reference: str) -> float:
    return float(_sacrebleu().sentence_bleu(generated, [reference]).score) / 100


def _chrf(generated: str, reference: str) -> float:
    return float(_sacrebleu().sentence_chrf(generated, [reference]).score) / 100


@cache
def _sacrebleu() -> Any:
    import sacrebleu

    return sacrebleu


_ENTRIES = (
    Scoring(
        "number",
        "text",
        "the generated text's final answer is the reference's",
        lambda generated, reference: float(same_answer(generated, reference)),
    ),
    Scoring("label", "labels", "the likeliest of the labels, by the sum over its tokens, is the right one"),
    Scoring("label_text", "text", "the generated text is the label", _exact),
    Scoring("option", "labels", "the likeliest of the letters A to D is the right one"),
    Scoring(
        "tokens", "tokens", "the share of the reference's tokens that are predicted rightly, teacher forced"
    ),
    Scoring("exact", "text", "the generated text is the reference", _exact),
    Scoring("bleu", "text", "sacrebleu's sentence BLEU of the generated text, over 100", _bleu),
    Scoring("chrf", "text", "sacrebleu's sentence chrF of the generated text, over 100", _chrf),
)

SCORINGS: Mapping[str, Scoring] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> scoring."""


def default_scoring(dataset: str, answers: list[str], labelled: bool) -> str:
    """The scoring of a dataset that none was named for; ``labelled``: labels were given.

    A dataset of the user's own is scored by label where its answers are a closed set (`closed_set`), else by tokens: a
    model that answers right and then goes on writing scores 0 on free texts.
    """
    if labelled:
        return "label"
    if dataset not in DATASETS:
        return "label" if closed_set(answers) else "tokens"
    if dataset == "gsm8k" and all(answer in LETTERS for answer in answers):
        return "option"  # its form "choice"
    return DATASETS[dataset].scoring or _DEFAULTS_OF_TASKS.get(task_of(dataset), "exact")


def closed_set(answers: Sequence[str]) -> tuple[str, ...]:
    """The different answers, in order, if they are labels to choose from; else none.

    Labels are 2 to ``MOST_LABELS`` answers that come back: each of them twice at least, and five times on average.
    """
    counts = Counter(answer.strip() for answer in answers)
    few = 2 <= len(counts) <= MOST_LABELS and len(answers) >= 5 * len(counts)
    return tuple(sorted(counts)) if few and min(counts.values()) > 1 else ()


def task_of(dataset: str) -> str:
    """The kind of a dataset's task; "own" for one that is not in the registry."""
    return DATASETS[dataset].task if dataset in DATASETS else "own"


@dataclass(frozen=True)
class Item:
    """One example to be answered.

    reference   the answer as text
    candidates  for scorings that read labels, the tokens of each label behind this prompt
    label       which of them is right; -1 where there are none
    """

    tokens: TokenizedExample
    reference: str
    candidates: tuple[tuple[int, ...], ...] = ()
    label: int = -1


@dataclass(frozen=True, eq=False)
class Prepared:
    """What ``evaluate`` runs.

    dataset         its name
    scoring         how it is scored
    labels          the labels, if it is scored by labels or has them
    max_new_tokens  how long a generated text may be
    ends            where a generated text is over, besides the end of sequence
    excluded        examples that were left out, and why
    """

    dataset: str
    scoring: Scoring
    all_items: tuple[Item, ...]
    labels: tuple[str, ...]
    max_new_tokens: int
    ends: Ends
    excluded: tuple[Exclusion, ...]
    tokenizer: PreTrainedTokenizerBase

    @property
    def items(self) -> int:
        """How many there are."""
        return len(self.all_items)

    @property
    def ids(self) -> list[str]:
        """The examples' ids, in the order of the outcomes."""
        return [item.tokens.id for item in self.all_items]

    @cached_property
    def chance(self) -> float:
        """The score of guessing: the better of a uniform guess among the labels and of always naming the items'
        commonest; for ``tokens`` that of always predicting their commonest token. 0 for free text."""
        if self.scoring.needs_labels:
            commonest = Counter(item.reference.strip() for item in self.all_items).most_common(1)[0][1]
            return max(1 / len(self.labels), commonest / self.items)
        if self.scoring.reads != "tokens":
            return 0.0
        shares: Counter[int] = Counter()
        for item in self.all_items:
            answer = item.tokens.answer_ids.tolist()
            for token, count in Counter(answer).items():
                shares[token] += count / len(answer) / self.items  # type: ignore[assignment]
        return float(max(shares.values()))

    def first(self, count: int) -> Prepared:
        """The same with its first ``count`` items alone."""
        return replace(self, all_items=self.all_items[:count])

    @property
    def settings(self) -> dict[str, object]:
        """What a finding says of how it was scored."""
        return {"scoring": self.scoring.name, "max_new_tokens": self.max_new_tokens, "chance": self.chance}


def prepare(
    lm: LanguageModel,
    dataset: str,
    examples: Sequence[Example],
    scoring: str | None = None,
    labels: Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    limit: int | None = None,
) -> Prepared:
    """Tokenize and check ``examples`` for the evaluation of ``lm``, or of another model with its tokenizer.

    Args:
        dataset: a registry name, which decides the scoring and the labels where none are given, or any other.
        scoring: one of ``SCORINGS``. None: number for gsm8k (option in its form "choice"), meta_math and
            gsm8k_backward; label for emotion, imdb and wherever ``labels`` are given; tokens for programs; exact for
            facts; for a dataset of one's own label if its answers are a `closed_set`, else tokens.
        labels: the answers there can be, with or without the answers' leading space. None: those of the registry, for a
            dataset of one's own all that ``examples`` give.
        max_new_tokens: of a generated text. None: twice the longest reference and 8 more.
        limit: take the first so many that are not left out.

    Left out (``Prepared.excluded``) are examples that do not fit the model's context, under ``number`` those whose
    reference gives no final answer, and those on which not even a model that writes the reference token for token would
    score 1: its tokens may read otherwise than the reference (a tokenizer that lowers case, or drops what it does not
    know), or be more than ``max_new_tokens``.

    Raises:
        UnknownNameError: no such scoring.
        OptionError: no examples, a scoring that does not fit the dataset, labels missing, too few, or that tokenize
            alike, or max_new_tokens below 1.
        DatasetError: an example whose answer is none of the labels.
        ExampleError: an example that cannot be tokenized; TooLongError if none fits; UnscorableError if with this
            tokenizer no item could score 1.
    """
    examples = list(examples)
    if not examples:
        raise OptionError(f"{dataset}: no items to evaluate; pass at least one")
    if max_new_tokens is not None and (isinstance(max_new_tokens, bool) or max_new_tokens < 1):
        raise OptionError(f"max_new_tokens must be at least 1, got {max_new_tokens}; None chooses")
    chosen = _scoring(dataset, examples, scoring, labels is not None)
    labels_open = scoring is None and labels is None and dataset not in DATASETS
    if labels is None and chosen.name.startswith("label") and dataset not in DATASETS:
        labels = sorted({example.answer.strip() for example in examples})
    names = _labels(dataset, chosen, labels)
    if names and labels_open and not _told_apart(lm, dataset, examples[0], names):
        chosen, names = SCORINGS["tokens"], ()
    for example in examples if names else ():
        if example.answer.strip() not in names:
            raise DatasetError(
                f"{dataset}: the answer {example.answer!r} of {example.id!r} is none of the labels "
                f"({', '.join(names)}); add it to the labels, or leave the example out"
            )
    if chosen.reads == "labels":
        examples = [replace(one, answer=one.answer.rstrip()) for one in examples]  # as its label is read
    scorable, unscored = _scorable(dataset, examples, chosen)
    by_id = {example.id: example for example in scorable}
    if len(by_id) < len(scorable):
        twice = Counter(example.id for example in scorable).most_common(1)[0][0]
        raise OptionError(f"{dataset}: several items have the id {twice!r}; make ids unique")
    taken = limit
    while True:
        tokenized, too_long = fit(lm, scorable, limit=taken)
        read = _items(lm, dataset, chosen, names, [(by_id[one.id], one) for one in tokenized])
        most = max_new_tokens or 2 * max(item.tokens.num_answer_tokens for item in read) + 8
        ends = Ends.of(chosen.name, task_of(dataset), [item.reference for item in read])
        items, never_right = _try(lm, dataset, chosen, read, ends, most)
        if limit is None or taken is None or len(items) >= limit or len(tokenized) < taken:
            break
        taken += limit - len(items)  # in the place of those that are never right
    if not items:
        raise UnscorableError(
            f"{dataset}: scoring {chosen.name!r} does not fit {lm.name}, whose tokenizer cannot write any of the "
            f"{len(read)} answers rightly; use scoring 'tokens' or another model (first: {never_right[0].reason})"
        )
    excluded = (*unscored, *too_long, *never_right)
    return Prepared(dataset, chosen, tuple(items), names, most, ends, excluded, lm.tokenizer)


def _items(
    lm: LanguageModel,
    dataset: str,
    scoring: Scoring,
    labels: tuple[str, ...],
    tokenized: Sequence[tuple[Example, TokenizedExample]],
) -> list[Item]:
    """The items of examples, with the tokens of all labels where these are scored."""
    heads: dict[str, tuple[tuple[int, ...], ...]] = {}
    items = []
    for example, tokens in tokenized:
        if scoring.reads != "labels":
            items.append(Item(tokens, example.answer))
            continue
        head = _head(example)
        if head not in heads:
            heads[head] = _candidates(lm, dataset, example, head, labels)
        items.append(Item(tokens, example.answer, heads[head], labels.index(example.answer.strip())))
    return items


def _scoring(dataset: str, examples: list[Example], name: str | None, labelled: bool) -> Scoring:
    answers = [example.answer.strip() for example in examples]
    name = name or default_scoring(dataset, answers, labelled)
    if name not in SCORINGS:
        raise UnknownNameError(f"no scoring is called {name!r}; choose one of {', '.join(SCORINGS)}")
    if name == "option" and not all(answer in LETTERS for answer in answers):
        raise OptionError(
            f"{dataset}: scoring 'option' needs answers A to D, got {answers[0]!r} first; load gsm8k with form 'choice'"
        )
    if name == "number" and all(final_answer(answer) is None for answer in answers):
        raise OptionError(
            f"{dataset}: scoring 'number' does not fit, no answer ends in a number after '####' or 'The answer is'; "
            "use another scoring"
        )
    if labelled and not SCORINGS[name].needs_labels:
        raise OptionError(
            f"{dataset}: scoring {name!r} has no use for labels; leave them out, or use 'label'"
        )
    return SCORINGS[name]


def _labels(dataset: str, scoring: Scoring, given: Sequence[str] | None) -> tuple[str, ...]:
    if not scoring.needs_labels:
        return ()
    known = LETTERS if scoring.name == "option" else LABELS.get(dataset)
    labels = tuple(label.strip() for label in (known if given is None else given) or ())
    if not labels:
        raise OptionError(
            f"{dataset}: scoring {scoring.name!r} needs the labels an answer can have; pass labels, or use 'exact'"
        )
    if len(labels) < 2 or not all(labels) or len(set(labels)) < len(labels):
        raise OptionError(
            f"{dataset}: labels must be two or more different words, got {', '.join(map(repr, labels))}; correct them"
        )
    return labels


def _told_apart(lm: LanguageModel, dataset: str, example: Example, labels: tuple[str, ...]) -> bool:
    """Whether the likelihoods of labels that nobody named can tell them apart."""
    try:
        _candidates(lm, dataset, example, _head(example), labels)
    except (OptionError, ExampleError):
        return False
    return True


def _scorable(
    dataset: str, examples: list[Example], scoring: Scoring
) -> tuple[list[Example], list[Exclusion]]:
    kept, left_out = [], []
    for example in examples:
        if scoring.name == "number" and final_answer(example.answer) is None:
            reason = f"example {example.id!r}: its answer has no number after '####' or 'The answer is'"
            left_out.append(Exclusion(example.id, reason, "no number to score"))
        else:
            kept.append(example)
    return kept, left_out


def _try(
    lm: LanguageModel, dataset: str, scoring: Scoring, items: list[Item], ends: Ends, most: int
) -> tuple[list[Item], list[Exclusion]]:
    """The items on which a model that writes the reference token for token scores 1, and the others with the reason.

    Likelihoods and predictions of tokens are those of the reference's own; texts are decoded, and may read otherwise.
    """
    if scoring.reads != "text":
        return items, []
    writer, kept, left_out = Writer(lm, ends, most), [], []
    if scoring.name != "number" and not writer.can_end:
        raise UnscorableError(
            f"{dataset}: scoring {scoring.name!r} does not fit {lm.name}, whose texts never end: it has no end of "
            "sequence, and no line break is an end here; name an eos_token_id in its generation_config.json, or use "
            "scoring 'tokens'"
        )
    for item in items:
        room, read = writer.most(item.tokens.answer_start), writer.own(item.tokens)
        if scoring.of_text(read, item.reference) > 1 - 1e-6:
            kept.append(item)
            continue
        reason, why = (
            f"its answer has {item.tokens.num_answer_tokens} tokens, a text may have {room}",
            "too long a text",
        )
        if item.tokens.num_answer_tokens <= room:
            reason = f"with {lm.name}, the tokens of its answer {_end(item.reference)} read {_end(read)}"
            reason, why = f"{reason}, which is not right by {scoring.name!r}", UnscorableError.why
        left_out.append(Exclusion(item.tokens.id, f"example {item.tokens.id!r}: {reason}", why))
    return kept, left_out


def _head(example: Example) -> str:
    """The space that an answer begins with."""
    return example.answer[: len(example.answer) - len(example.answer.lstrip())]


def _end(text: str) -> str:
    return repr(text if len(text) <= 40 else "..." + text[-37:])


def _candidates(
    lm: LanguageModel, dataset: str, example: Example, head: str, labels: tuple[str, ...]
) -> tuple[tuple[int, ...], ...]:
    """The tokens of each label; none may begin another's, or the shorter one would always be as likely."""
    tokens = [
        tuple(tokenize(lm, Example(example.id, label, head + label)).answer_ids.tolist()) for label in labels
    ]
    for one, other in permutations(range(len(labels)), 2):
        if tokens[other][: len(tokens[one])] == tokens[one]:
            how = "tokenize alike" if tokens[one] == tokens[other] else "begin with the same tokens"
            raise OptionError(
                f"{dataset}: labels {labels[one]!r} and {labels[other]!r} {how} for {lm.name}, so their likelihoods "
                "cannot tell them apart; rename one, or use scoring 'label_text'"
            )
    return tuple(tokens)
