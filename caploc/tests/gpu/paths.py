"""What an audit runs on a GPU, each path once and as small as it gets: a call that gives its numbers on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.engine import Attributor, Method
from caploc.circuits import Circuit, DecomposedModel, attribute_edges, faithful, mean_outputs, prune
from caploc.circuits.circuit import run_alone
from caploc.datasets.edits import EditRequest
from caploc.evaluation import evaluate, prepare, text_loss
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.experiments.facts import answers_known
from caploc.interventions.activations import rewritten, scaled
from caploc.interventions.attention import AttentionScaling
from caploc.interventions.enhancement import Recipe, enhance, enhanced
from caploc.interventions.rank_one import Editing, draw_prefixes, edit_all_layers, key_covariance, score_edit
from caploc.interventions.scaling import Scaling
from caploc.interventions.weights import erased
from caploc.locators import rivals
from caploc.locators.causal_tracing.trace import Tracing
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.knowledge_neurons import example_scores
from caploc.locators.magnitude import magnitude
from caploc.model.loading import LanguageModel, untrained_twin, wrap
from caploc.neurons import NeuronMask
from caploc.tests.attribution.families import config_of, make_model
from caploc.tests.evaluation.cases import ENDS, sets
from caploc.tests.tiny import tokenizer

Numbers = Sequence[np.ndarray]
LAYERS = 4
EXAMPLES = [
    Example(f"e{number}", prompt, answer, subject=prompt.split()[0])
    for number, (prompt, answer) in enumerate(
        [("ab cd lives in the town of", " xyz"), ("ef was born in", " qq"), ("gh i eats at", " rst")]
    )
]
FACT = EditRequest("f1", "in the town of ab cd lives", "ab cd", " xyz", " q")


def small_lm(family: str, dtype: torch.dtype) -> LanguageModel:
    """A random model of four layers whose texts end now and then."""
    lm = wrap(f"small-{family}", make_model(config_of(family, LAYERS, 4, 2, 5), dtype, 0), tokenizer())
    lm.model.generation_config.eos_token_id = list(ENDS)  # type: ignore[union-attr]
    return lm


def tokens(lm: LanguageModel) -> list[TokenizedExample]:
    return [tokenize(lm, example) for example in EXAMPLES]


def mask(lm: LanguageModel) -> NeuronMask:
    values = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    values[1:, ::6] = True
    return NeuronMask(values)


def _attribution(**options: Any) -> Callable[[LanguageModel], Numbers]:
    def run(lm: LanguageModel) -> Numbers:
        with Attributor(lm, Method(steps=4, **options)) as attributor:
            sums = attributor.sums(tokens(lm)[:2])
        return [sums.total, sums.completeness, sums.gap, sums.points]

    return run


def _evaluation(scoring: str, erasing: bool = True) -> Callable[[LanguageModel], Numbers]:
    def run(lm: LanguageModel) -> Numbers:
        labels = (" yes", " no", " maybe") if scoring == "label" else None
        examples = [
            Example(one.id, one.prompt, labels[number % 3] if labels else one.answer)
            for number, one in enumerate(EXAMPLES)
        ]
        prepared = prepare(lm, "own", examples, scoring, labels, None if labels else 9)
        found = evaluate(lm, prepared, sets(lm, 0) if erasing else None)
        return [found.score, found.nll, found.exact, found.ended]

    return run


def _text_loss(lm: LanguageModel) -> Numbers:
    return [text_loss(lm, [example.prompt for example in EXAMPLES], sets(lm, 1))]


def _training(others: bool) -> Callable[[LanguageModel], Numbers]:
    def run(lm: LanguageModel) -> Numbers:
        located, recipe = mask(lm), Recipe(lr=1e-2, epochs=2, batch_size=3, keep=(2,))
        chosen, zeroed = (NeuronMask(~located.values), located) if others else (located, None)
        made = enhance(lm, chosen, tokens(lm), recipe, held_out=[_held_out(lm)], zeroed=zeroed)
        with enhanced(lm, made.at[2]):
            after = answers_known(lm, tokens(lm))[1]
        changes = [change for rows in made.at[2].layers.values() for change in rows.changes.values()]
        return [made.losses, np.array(list(made.held_out.values())), after, *map(_array, changes)]

    return run


def _held_out(lm: LanguageModel) -> TokenizedExample:
    return tokenize(lm, Example("held", "out of", " it"))


def _erased_weights(lm: LanguageModel) -> Numbers:
    with erased(lm, mask(lm)):
        return answers_known(lm, tokens(lm))


def _known(lm: LanguageModel) -> Numbers:
    return answers_known(lm, tokens(lm))


def _magnitude(lm: LanguageModel) -> Numbers:
    return [_array(magnitude(lm, tokens(lm)).values)]


def _rivals(lm: LanguageModel) -> Numbers:
    other = [Example("o", "1+2=", "3"), Example("p", "2+2=", "4")]
    found = [
        rivals.gradient_activation(lm, EXAMPLES, 2.0),
        rivals.attribution_patching(lm, EXAMPLES, 2.0),
        rivals.mathneuro(lm, EXAMPLES, others=other),
        rivals.activation_contrast(lm, EXAMPLES, others=other, sigma=2.0),
    ]
    return [_array(one.values) for one in found]


def _knowledge_neurons(lm: LanguageModel) -> Numbers:
    return [
        _array(scores.values) for scores in example_scores(lm, tokens(lm), Method(steps=3), progress=False)
    ]


def _tracing(kind: Any) -> Callable[[LanguageModel], Numbers]:
    def run(lm: LanguageModel) -> Numbers:
        with Tracer(lm, Tracing(kind, draws=4)) as tracer:
            found = tracer.one(tokens(lm)[2], range(1, 3))
        return [_array(found.restored_by_draw)]

    return run


def _scaling(lm: LanguageModel) -> Numbers:
    with Scaling(lm) as scaling:
        found = scaling.log_probs(tokens(lm)[0], sets(lm, 2), [0.0, 2.0, *[0.5] * LAYERS, 1.0])
    return [_array(found.log_probs), _array(found.clean)]


def _synapses(lm: LanguageModel) -> Numbers:
    example = tokens(lm)[0]
    with AttentionScaling(lm) as scaling:
        seen = scaling.look(example)
        cells = [[(layer, 0, 2), (layer, 0, 4)] for layer in range(LAYERS)]
        found = scaling.log_probs(example, cells, 0.0, held=mask(lm))
        other = scaling.log_probs(example, cells, 2.0, "renormalized", "all")
    return [_array(seen.weights), _array(seen.lengths), _array(found.log_probs), _array(other.log_probs)]


def _activations(lm: LanguageModel) -> Numbers:
    ids = tokens(lm)[0].input_ids[None].to(lm.device)
    added = torch.linspace(-1, 1, lm.model.get_input_embeddings().weight.shape[1])[None].to(lm.device)
    found = []
    for change in (
        scaled(lm, mask(lm), 0.0),
        scaled(lm, mask(lm), 2.0, None),
        rewritten(lm, mask(lm), added),
    ):
        with change, torch.no_grad():
            found.append(_array(lm.model(input_ids=ids, use_cache=False).logits))
    return found


def _edges(lm: LanguageModel) -> Numbers:
    model = DecomposedModel(lm)
    prompts = [model.prompt(example) for example in tokens(lm)]
    return [attribute_edges(model, prompts[:2], 3).values]


def _alone(lm: LanguageModel) -> Numbers:
    whole = Circuit.whole(DecomposedModel(lm).graph)
    circuits = [whole, *(whole.random_like(seed) for seed in range(2))]
    circuits += [
        Circuit(whole.graph, one.values & (torch.arange(whole.graph.edges) % 3 > 0)) for one in circuits
    ]
    found = run_alone(lm, EXAMPLES[:2], circuits, mean_outputs(lm, EXAMPLES))
    return [found.probabilities, found.log_probs, found.ranks, found.whole_log_probs]


def _faithful(lm: LanguageModel) -> Numbers:
    model = DecomposedModel(lm)
    found = faithful(model, [model.prompt(tokens(lm)[0])], 0.5)
    return [_array(found.circuit.values), np.array([found.faithfulness, found.bar, found.runs])]


def _pruned(lm: LanguageModel) -> Numbers:
    model = DecomposedModel(lm)
    found = prune(model, [model.prompt(tokens(lm)[1])], 0.01)
    return [_array(found.circuit.values), found.scores]


def _covariance(lm: LanguageModel) -> Numbers:
    found = key_covariance(lm, [example.prompt for example in EXAMPLES], progress=False)
    return [_array(matrix) for matrix in found.matrices.values()]


def _edits(lm: LanguageModel) -> Numbers:
    covariance = key_covariance(lm, [example.prompt for example in EXAMPLES], ridge=1e-2, progress=False)
    editing = Editing(prefixes=("no. ", "well then. "), steps=3)
    edits = edit_all_layers(lm, FACT, covariance, editing=editing)
    with edits[1].applied(lm):
        score = score_edit(lm, FACT)
    deltas = [_array(part) for edit in edits.values() for part in (edit.delta, edit.direction)]
    return [*deltas, np.array([score.new, score.true])]


def _prefixes(lm: LanguageModel) -> Numbers:
    return [np.array(draw_prefixes(lm, (3, 5)))]


def _twin(lm: LanguageModel) -> Numbers:
    return answers_known(untrained_twin(lm, 1), tokens(lm))


PATHS: Mapping[str, Callable[[LanguageModel], Numbers]] = {
    "attribution": _attribution(),
    "attribution-adaptive": _attribution(quadrature="adaptive"),
    "attribution-before-the-nonlinearity": _attribution(value="pre"),
    "one-neuron-at-a-time": _attribution(path="neuron"),
    "knowledge-neurons": _knowledge_neurons,
    "erasure": _evaluation("tokens"),
    "generation": _evaluation("exact"),
    "generation-of-the-model": _evaluation("exact", erasing=False),
    "labels": _evaluation("label"),
    "text-loss": _text_loss,
    "training": _training(others=False),
    "training-all-others": _training(others=True),
    "erased-weights": _erased_weights,
    "edge-attribution": _edges,
    "circuits-alone": _alone,
    "faithful-circuit": _faithful,
    "exact-pruning": _pruned,
    "covariance": _covariance,
    "rank-one-edits": _edits,
    "tracing": _tracing("hidden"),
    "tracing-mlp": _tracing("mlp"),
    "tracing-attention": _tracing("attention"),
    "scaling": _scaling,
    "synapses": _synapses,
    "changed-activations": _activations,
    "known-answers": _known,
    "magnitude": _magnitude,
    "rivals": _rivals,
    "prefixes": _prefixes,
    "untrained-twin": _twin,
}


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().double().cpu().numpy()
    return array
