"""Methods that locate: one file each, one signature, one registry that experiments iterate.

``LOCATORS[key].locate(lm, examples, **options)`` returns a ``caploc.metrics.Location``. A method of your own takes part
in every comparison once it is registered, without a line changed elsewhere::

    @register_locator("largest-gradient", name="largest gradient", source="ours", places=NeuronMask)
    def locate(lm, examples, top_k=20):
        ...
        return NeuronMask(chosen)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from caploc.circuits.circuit import Circuit
from caploc.errors import OptionError
from caploc.locators import (
    commonality,
    consistency_aware,
    knowledge_circuit,
    knowledge_neurons,
    layer_outliers,
    magnitude,
    rivals,
)
from caploc.locators.causal_tracing.locate import locate as locate_by_tracing
from caploc.locators.causal_tracing.trace import Tracing
from caploc.locators.layers import LayerSet
from caploc.locators.method import Conditions, EachAlone, FactMethod, SampleMethod
from caploc.locators.traced_layers import LastTokenLayers, TracedLayers
from caploc.metrics import Location
from caploc.neurons import NeuronMask

Aim = Literal["fact", "dataset"]


@dataclass(frozen=True, eq=False)
class Locator:
    """One method.

    =============  ============================================================================================
    ``key``        what ``LOCATORS`` and results call it
    ``name``       what reports call it
    ``source``     where it is described
    ``places``     the kind of ``Location`` that it returns
    ``aim``        what its authors locate with it: a single ``fact``, prompt by prompt, or what the examples of a
                   ``dataset`` have in common
    ``locate``     ``locate(lm, examples, **options)``
    ``facts``      how experiments locate single facts with it; None: by ``locate``, each prompt alone
    ``samples``    how experiments average it over a dataset; None: by ``locate``, each example alone
    ``version``    raise it when ``locate`` changes its results, which the store's keys cannot see
    ``options``    what ``locate`` is given where ``facts`` or ``samples`` is None
    ``wordings``   the fewest wordings of one fact that ``locate`` needs together; what needs several takes no part in
                   experiments that give a method one prompt at a time
    ``audited``    whether claims compare CNL with it; otherwise it is only tried where the truth is known
                   (``caploc.check_locator``), and costs an audit nothing
    =============  ============================================================================================
    """

    key: str
    name: str
    source: str
    places: type[Location]
    aim: Aim
    locate: Callable[..., Location]
    facts: Callable[[Conditions], FactMethod] | None = None
    samples: Callable[[Conditions], SampleMethod] | None = None
    version: int = 1
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    wordings: int = 1
    audited: bool = True

    def __call__(self, *args: Any, **options: Any) -> Location:
        """``locate`` itself."""
        return self.locate(*args, **options)

    def on_facts(self, conditions: Conditions) -> FactMethod:
        """How experiments locate the fact behind one prompt."""
        return self._each_alone() if self.facts is None else self.facts(conditions)

    def on_samples(self, conditions: Conditions) -> SampleMethod:
        """How experiments locate from means over the examples of a dataset."""
        return self._each_alone() if self.samples is None else self.samples(conditions)

    def _each_alone(self) -> EachAlone:
        if self.wordings > 1:
            raise OptionError(
                f"locator {self.key!r} needs {self.wordings} wordings of a fact together, and is given one prompt at a "
                "time here; take another locator, or call its locate with the wordings"
            )
        return EachAlone(self.key, self.locate, self.places, self.version, tuple(self.options.items()))


_ENTRIES = (
    Locator(
        "cnl",
        "commonality neurons",
        "Capability Localization, section 5.1",
        NeuronMask,
        "dataset",
        commonality.locate,
        samples=lambda conditions: commonality.CommonalityScores(conditions.attribution),
    ),
    Locator(
        "kn",
        "knowledge neurons",
        "Dai et al., 2022; Capability Localization, section 2.1",
        NeuronMask,
        "fact",
        knowledge_neurons.locate,
        facts=lambda conditions: knowledge_neurons.KnowledgeNeuronScores(conditions.attribution),
        samples=lambda conditions: knowledge_neurons.KnowledgeNeuronScores(conditions.attribution, 1),
    ),
    Locator(
        "rome",
        "causal tracing",
        "Meng et al., 2022; Capability Localization, section 2.2 and appendix C",
        LayerSet,
        "fact",
        locate_by_tracing,
        facts=lambda conditions: TracedLayers(Tracing(conditions.restored, seed=conditions.seed)),
        samples=lambda conditions: LastTokenLayers(Tracing("mlp", seed=conditions.seed)),
    ),
    Locator(
        "kc",
        "knowledge circuits",
        "Yao et al., 2024; Capability Localization, section 2.3 and appendix D",
        Circuit,
        "fact",
        knowledge_circuit.locate,
        facts=lambda _: knowledge_circuit.FactCircuits(),
        samples=lambda _: knowledge_circuit.MlpEdges(),
    ),
    Locator(
        "consistency-aware",
        "consistency-aware neurons",
        "Chen et al., 2025 (Query Localization), eq. (7), whose form is known at second hand",
        NeuronMask,
        "fact",
        consistency_aware.locate,
        wordings=consistency_aware.FEWEST_WORDINGS,
    ),
    Locator(
        "magnitude",
        "plain magnitude",
        "mean |activation| times the norm of the output weights: the strongest rival that needs no gradient",
        NeuronMask,
        "dataset",
        magnitude.locate,
        samples=lambda _: magnitude.Magnitudes(),
    ),
    *(
        Locator(key, name, source, NeuronMask, "dataset", locate, audited=False)
        for key, name, source, locate in (
            (
                "gradient-activation",
                "gradient x activation",
                "Simonyan et al., 2014; eq. (7) with one step, at alpha = 1",
                rivals.gradient_activation,
            ),
            (
                "attribution-patching",
                "attribution patching",
                "Nanda, 2023; Syed et al., 2023: one step between two prompts",
                rivals.attribution_patching,
            ),
            ("mathneuro", "MathNeuro", "Christ et al., 2024: forward passes alone", rivals.mathneuro),
            (
                "activation-contrast",
                "activation contrast",
                "the difference of mean activations on two tasks",
                rivals.activation_contrast,
            ),
            ("random", "random", "chance", rivals.random),
            (
                "layer-outliers",
                "outliers of their layer",
                "ours: CNL's attributions, cut in each layer by a false-discovery rate",
                layer_outliers.locate,
            ),
        )
    ),
)

_REGISTERED: dict[str, Locator] = {entry.key: entry for entry in _ENTRIES}
LOCATORS: Mapping[str, Locator] = MappingProxyType(_REGISTERED)
"""Key -> locator: the paper's own, those that it compares with, plain magnitude, rivals, then those that were
registered."""


def compared() -> tuple[str, ...]:
    """The keys that comparisons of the audit iterate. Rivals that are tried only where the truth is known take no part:
    the paper makes no claim about them, and each would lengthen every cell. Nor does what needs several wordings."""
    return tuple(key for key, entry in LOCATORS.items() if entry.audited and entry.wordings == 1)


def register_locator(
    key: str,
    *,
    name: str,
    source: str,
    places: type[Location],
    aim: Aim = "dataset",
    facts: Callable[[Conditions], FactMethod] | None = None,
    samples: Callable[[Conditions], SampleMethod] | None = None,
    version: int = 1,
    wordings: int = 1,
    **options: Any,
) -> Callable[[Callable[..., Location]], Callable[..., Location]]:
    """Enter the decorated ``locate(lm, examples, **options)`` into ``LOCATORS``; see ``Locator`` for the arguments.

    ``options`` are given to ``locate`` in experiments. A locator without ``facts`` or ``samples`` is run on each
    example by itself, and its locations are kept in the store; one that needs several ``wordings`` of a fact together
    takes part where experiments have them.

    Raises:
        OptionError: the key is taken, or a value makes no sense.
    """
    if key in _REGISTERED:
        raise OptionError(f"there is a locator {key!r} already ({_REGISTERED[key].name}); choose another key")
    if aim not in get_args(Aim):
        raise OptionError(f"aim must be 'fact' or 'dataset', got {aim!r}")

    def enter(locate: Callable[..., Location]) -> Callable[..., Location]:
        frozen = MappingProxyType(options)
        _REGISTERED[key] = Locator(
            key, name, source, places, aim, locate, facts, samples, version, frozen, wordings
        )
        return locate

    return enter
