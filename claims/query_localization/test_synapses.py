"""Query localization, second part: attention selects the knowledge neurons that state a fact.

Each test is one claim over model x dataset of facts in many wordings, ParaRel unless the run names others; its
statement, margins and rule stand in ``caploc/papers/query_localization/synapses.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

synapses = experiments.synapses


@claim("ql-attention-neglected", synapses.attention_neglected, over="facts", dataset="pararel")
def test_attention_plays_a_part_that_located_neurons_do_not() -> None:
    """Abstract: knowledge localization "neglects the role of the attention module in knowledge expression"."""


@claim("ql-ks-suppress-answer", synapses.suppress_answer, over="facts", dataset="pararel")
def test_cutting_synapses_suppresses_the_answer() -> None:
    """Suppressing a query's synapses lowers the answer's probability, irrelevant ones less."""


@claim("ql-ks-suppress-kn", synapses.suppress_neurons, over="facts", dataset="pararel")
def test_cutting_synapses_suppresses_located_neurons() -> None:
    """Suppressing a query's synapses lowers its knowledge neurons, irrelevant ones less."""


@claim("ql-ks-selects", synapses.selects, over="facts", dataset="pararel")
def test_attention_selects_located_neurons() -> None:
    """Dynamic selection: attention acts on the knowledge neurons, and on others as large less."""


@claim("ql-ks-enhance", synapses.enhance, over="facts", dataset="pararel")
def test_doubling_synapses_enhances_neurons_and_answer() -> None:
    """Enhancing a query's synapses raises its knowledge neurons and the answer's probability."""
