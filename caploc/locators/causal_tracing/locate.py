"""From traces to layers: the top-k by the answer's restored probability (sections 2.2 and 3.1, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from caploc.errors import OptionError
from caploc.examples import Example, subject_tokens, tokenize
from caploc.locators.causal_tracing.trace import Kind, Rank, Trace, Tracing, check_rank
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.layers import LayerSet, check_top_k
from caploc.model.loading import LanguageModel


def trace(
    lm: LanguageModel, examples: Sequence[Example], tracing: Tracing | None = None, progress: bool = True
) -> list[Trace]:
    """The trace of each of ``examples``, as ``tracing`` says; None takes its defaults.

    All examples are tokenized and their subjects found before any is traced. The model is left as it was found.

    Raises:
        ExampleError: an example without a subject in its prompt, or that cannot be tokenized, by its id.
        ModelError: the model cannot be traced exactly (the self-check).
    """
    pairs = [(tokenize(lm, example), subject_tokens(lm, example)) for example in examples]
    bar = tqdm(pairs, desc=f"trace {lm.name}", unit="example", disable=None if progress else True)
    with Tracer(lm, tracing or Tracing()) as tracer:
        return [tracer.one(*pair) for pair in bar]


def best_layers(traces: Sequence[Trace], top_k: int = 3, rank: Rank = "last-subject") -> LayerSet:
    """The ``top_k`` layers by ``Trace.by_layer``, its mean over ``traces``.

    Raises:
        OptionError: no traces, traces of models with different numbers of layers, an unknown ``rank``, or a ``top_k``
            beyond the model's layers.
    """
    if not traces:
        raise OptionError("no traces to locate layers in; trace at least one example")
    scores = [trace.by_layer(rank) for trace in traces]
    if len({len(score) for score in scores}) != 1:
        raise OptionError(
            "the traces are of models with different numbers of layers; locate in one at a time"
        )
    return LayerSet.best(torch.stack(scores).mean(0).tolist(), top_k)


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    top_k: int = 3,
    kind: Kind = "hidden",
    rank: Rank = "last-subject",
    *,
    progress: bool = True,
    **options: Any,
) -> LayerSet:
    """The ``top_k`` layers (the paper's k is 3) whose clean state, put back at the subject's last token, makes the
    answer most probable, in the mean over ``examples``.

    Args:
        kind: the state that is put back: ``hidden``, as in appendix C, ``mlp`` or ``attention``.
        rank: ``last-subject``, or ``sum`` to add up the restored probabilities over all of the prompt's tokens.
        progress: show a progress bar, on a terminal.
        options: the other settings of ``Tracing``: ``window``, ``noise``, ``draws``, ``answer``, ``seed``,
            ``chunk_tokens``.

    Raises:
        OptionError: an option that does not exist or makes no sense, or no examples.
        ExampleError, ModelError: as ``trace`` does.
    """
    check_rank(rank)
    check_top_k(top_k, lm.num_layers)
    unknown = sorted(set(options) - set(Tracing.__dataclass_fields__))
    if unknown:
        known = ", ".join(name for name in Tracing.__dataclass_fields__ if name != "kind")
        raise OptionError(f"causal tracing has no option {unknown[0]!r}; it has {known}")
    tracing = Tracing(kind=kind, **options)
    if not examples:
        raise OptionError("no examples to trace; pass at least one")
    return best_layers(trace(lm, examples, tracing, progress), top_k, rank)
