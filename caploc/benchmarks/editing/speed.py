"""How much less CPU time it takes to seek the values of all layers together than layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.editing.cases import TOKENS, Sizes, embedded_case, random_case
from caploc.benchmarks.tables import Spread, Table, Value, at_least
from caploc.benchmarks.timing import cpu_seconds
from caploc.errors import CaplocError, ModelError
from caploc.interventions.rank_one.prompts import Editing, EditPrompts, Token
from caploc.interventions.rank_one.reference import reference_delta, reference_key
from caploc.interventions.rank_one.value import find_values, record
from caploc.models import LanguageModel
from caploc.rows.borrowing import frozen_eval

# Losses of the same search in float32 drift apart by Adam's division by small gradients, not by more than this.
_SAME = 0.01

Losses = list[tuple[float, ...]]


def together(lm: LanguageModel, prompts: EditPrompts, editing: Editing) -> Losses:
    """Keys and values of all layers in one batch."""
    with frozen_eval(lm.model):
        recorded = record(lm, prompts)
        found = find_values(lm, prompts, recorded, range(lm.num_layers), editing, "benchmark")
    return [value.losses for value in found.values()]


def one_by_one(lm: LanguageModel, prompts: EditPrompts, editing: Editing) -> Losses:
    """The same of every layer by itself, over whole sequences."""
    losses = []
    for layer in range(lm.num_layers):
        reference_key(lm, prompts, layer)
        losses.append(tuple(reference_delta(lm, prompts, layer, editing)[1]))
    return losses


def measure_speed(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row for each model and edited token."""
    # without an early stop, so that both do the same number of steps
    editing = Editing(steps=sizes.steps, stop_loss=0.0)
    columns = {
        "model": "model",
        "token": "edited token",
        "tokens": "tokens fed",
        "ratio": "one by one / together",
        "asked": "asked",
        "met": "met",
        "together": "together s",
        "one_by_one": "one by one s",
        "error": "difference of losses",
    }
    table = Table("speed", "CPU time of the edits of all layers of one fact", columns)
    table.notes.append(
        f"keys and values, {sizes.steps} steps, float32; without the drawing of prefixes, the covariance and the "
        "closed-form update, which cost both ways the same"
    )
    table.notes.append("difference of losses: the largest, over the largest loss")
    table.notes.append(
        "one by one: caploc.interventions.rank_one.reference, whole sequences of all prompts in one batch, one hook"
    )
    for token in TOKENS:
        for name, made in _cases(sizes, token).items():
            try:
                table.rows.append(_row(name, *made(), token, editing, sizes, options))
            except CaplocError as error:
                table.notes.append(f"{name} not measured: {error}")
    yield table


def _cases(sizes: Sizes, token: Token) -> dict[str, Callable[[], tuple[LanguageModel, EditPrompts]]]:
    drawn = {
        f"random-llama-{shape[0]}x{shape[1]}": partial(random_case, *shape, token) for shape in sizes.random
    }
    return {**drawn, **{name: partial(embedded_case, name, token) for name in sizes.embedded}}


def _difference(ours: Losses, theirs: Losses) -> float:
    """The largest difference over the largest loss; infinite where the number of steps differs."""
    if [len(own) for own in ours] != [len(own) for own in theirs]:
        return math.inf
    pairs = list(zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True))
    return max(abs(own - other) for own, other in pairs) / max(abs(other) for _, other in pairs)


def _row(
    name: str,
    lm: LanguageModel,
    prompts: EditPrompts,
    token: Token,
    editing: Editing,
    sizes: Sizes,
    options: Options,
) -> dict[str, Value]:
    ways = (together, one_by_one)
    losses = [way(lm, prompts, editing) for way in ways]  # untimed: what is made once only is made now
    error = _difference(*losses)
    if not error <= _SAME:
        raise ModelError(
            f"losses together and one by one differ by {error:.2g} of the largest, so their times say nothing"
        )
    seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in tqdm(range(options.repeat), desc=name, unit="round", disable=None, leave=False):
        for way in ways:
            seconds[way.__name__].append(cpu_seconds(partial(way, lm, prompts, editing)))
    pairs = zip(seconds["one_by_one"], seconds["together"], strict=True)
    ratio = Spread.of([slow / fast for slow, fast in pairs])
    return {
        "model": name,
        "token": token,
        "tokens": sum(len(prompt.fed) for prompt in prompts.all),
        "ratio": ratio,
        **at_least(ratio, sizes.least_ratio.get(token)),
        **{way: Spread.of(values) for way, values in seconds.items()},
        "error": error,
    }
