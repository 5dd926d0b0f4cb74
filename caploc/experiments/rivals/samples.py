"""What each method sees in each of the same samples: all that sets of equal size are located from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from caploc.circuits import DecomposedModel, attribute_edges
from caploc.circuits.graph import mlps_of
from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.experiments.facts import prompt_task as for_each_prompt
from caploc.experiments.locating import MOST_SHARDS, scrambled
from caploc.experiments.study import Study
from caploc.locators.causal_tracing.trace import Tracing
from caploc.locators.knowledge_neurons import example_scores
from caploc.locators.magnitude import magnitude
from caploc.locators.traced_layers import LastTokenTracer
from caploc.tests.experiments.test_locating import sharded_sums

CPU_SAMPLES = 32
"""On a CPU, unless ``--samples`` says how many; never more than ``MOST_SHARDS``, so that every sample is a shard."""

STEPS = 5


@dataclass(frozen=True, eq=False)
class Samples:
    """Numbers of K samples of one dataset.

    Attributes:
        commonality: CNL's scores, eq. (7) over the whole answer; ``scrambled`` those of the control text.
        knowledge: KN's, at the prompt's last token for the answer's first.
        magnitude: how large the neurons are (``caploc.locators.magnitude``).
        restored: the answer's probability with a layer's MLP restored at the prompt's last token.
        edges: EAP-IG's scores of the edges that begin or end at an MLP; ``at`` tells of which layers. None where the
            family cannot be taken apart; ``left_out`` says why.
    """

    commonality: Float[np.ndarray, "samples layers neurons"]
    scrambled: Float[np.ndarray, "samples layers neurons"]
    knowledge: Float[np.ndarray, "samples layers neurons"]
    magnitude: Float[np.ndarray, "samples layers neurons"]
    restored: Float[np.ndarray, "samples layers"]
    edges: Float[np.ndarray, "samples edges"] | None
    at: Bool[np.ndarray, "edges layers"] | None = None
    left_out: str | None = None

    def __len__(self) -> int:
        """K."""
        return len(self.restored)


def samples_of(study: Study, dataset: str) -> Samples:
    """The first samples of the locating part of ``dataset``, made once. Raises NotRunError."""
    return study.once(("rivals, samples", dataset), lambda: _samples(study, dataset))


def _samples(study: Study, dataset: str) -> Samples:
    every, asked = study.located(dataset).tokenized, study.settings.samples
    count = CPU_SAMPLES if asked is None and study.settings.device == "cpu" else MOST_SHARDS
    chosen, lm = every[:count], study.model_for()
    control = scrambled(every, study.settings.seed, lm.tokenizer.bos_token_id)[:count]
    edges, at, left_out = _edges(study, chosen)
    return Samples(
        _commonality(study, chosen),
        _commonality(study, control),
        _knowledge(study, chosen),
        _magnitudes(study, chosen),
        _restored(study, chosen),
        edges,
        at,
        left_out,
    )


def _commonality(study: Study, examples: Sequence[TokenizedExample]) -> np.ndarray:
    """Kept example by example, under the keys of group D where that has no larger shards."""
    sums = sharded_sums(study.lm, examples, study.settings.attribution, study.settings.store)
    return sums.totals.reshape(len(examples), sums.layers, sums.neurons)


def _knowledge(study: Study, examples: Sequence[TokenizedExample]) -> np.ndarray:
    first = [
        TokenizedExample(one.input_ids[: one.answer_start + 1], one.answer_start, one.id) for one in examples
    ]
    found = example_scores(study.lm, first, study.settings.attribution, study.settings.store)
    return np.stack([one.values.double().numpy(force=True) for one in found])


def _magnitudes(study: Study, examples: Sequence[TokenizedExample]) -> np.ndarray:
    def make(number: int) -> Mapping[str, np.ndarray]:
        return {"values": magnitude(study.lm, [examples[number]]).values.numpy(force=True)}

    return _each(study, "magnitudes", examples, {}, make)


def _restored(study: Study, examples: Sequence[TokenizedExample]) -> np.ndarray:
    tracing = Tracing(seed=study.settings.seed)
    with ExitStack() as stack:
        tracer: list[LastTokenTracer] = []

        def make(number: int) -> Mapping[str, np.ndarray]:
            if not tracer:  # at the first missing sample: a warm run touches no weight
                tracer.append(LastTokenTracer(study.lm, tracing))
                stack.enter_context(tracer[0])
            return {"values": tracer[0].by_layer(examples[number]).numpy()}

        return _each(study, "layers at the last prompt token", examples, tracing.settings, make)


def _edges(
    study: Study, examples: Sequence[TokenizedExample]
) -> tuple[np.ndarray | None, np.ndarray | None, str | None]:
    try:
        model = DecomposedModel(study.lm)
    except ModelError as error:
        return None, None, str(error)
    at = mlps_of(model.graph)
    touching = at.any(1)

    def make(number: int) -> Mapping[str, np.ndarray]:
        scores = attribute_edges(model, [model.prompt(examples[number])], STEPS)
        return {"values": scores.values[touching].astype(np.float32)}

    return _each(study, "edges of MLPs", examples, {"steps": STEPS}, make), at[touching], None


def _each(
    study: Study,
    what: str,
    examples: Sequence[TokenizedExample],
    settings: Mapping[str, object],
    make: Callable[[int], Mapping[str, np.ndarray]],
) -> np.ndarray:
    """``make(number)["values"]`` of each example, kept in the store."""
    # the noise is drawn from the example's id
    keys = [{**settings, "id": one.id, "tokens": one.content} for one in examples]
    found = for_each_prompt(study, study.lm, what, keys, make)
    return np.stack([one["values"] for one in found]).astype(np.float64)
