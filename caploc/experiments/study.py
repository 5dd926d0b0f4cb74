"""One model under study: its examples, what it is asked to do, and the results that its specs name."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

from caploc.attribution.method import Method
from caploc.datasets import DATASETS
from caploc.datasets.loading import Part, read_part
from caploc.errors import (
    OptionError,
    TooLongError,
    UnavailableDatasetError,
    UnavailableModelError,
    UnfitError,
)
from caploc.examples import Example, Exclusion, TokenizedExample, counted, fit
from caploc.experiments import FEWEST_DRAWS, FEWEST_SAMPLES
from caploc.experiments.readings import Reading
from caploc.experiments.specs import (
    ENDINGS,
    FloorError,
    Need,
    NotRunError,
    NotStoredError,
    Result,
    Spec,
    Task,
)
from caploc.findings import Cell, Measurement
from caploc.fingerprints import fingerprint
from caploc.locators.causal_tracing.trace import Kind
from caploc.model.loading import DTYPES, Deferred, LanguageModel, defer_model, untrained_twin, wrap
from caploc.model.registry import REGISTRY, embedded_data
from caploc.neurons import Deviation, Dispersion, Scope, Threshold
from caploc.papers import Claim
from caploc.rows.clean import HALF
from caploc.store import Store

CPU_SAMPLES = 320
"""Power is .8 and more for what Table 1 prints (160 would do), and halves agree by half, so that the curve bounds them,
under a third more noise than with 160. With the controls both embedded models take 900 CPU-seconds of attribution."""
PAPER_SIGMA = 6.0


@dataclass(frozen=True)
class StudySettings:
    """What a study is asked to do.

    ``samples`` per dataset: None for the paper's own number on a GPU (section 5.3) and ``CPU_SAMPLES`` on a CPU.
    ``share``: of the default numbers of facts, where ``samples`` says none (`caploc.rules.looks`).
    ``data_root`` None: the embedded data for embedded models, else the hub. ``files`` maps a dataset of the user's own
    to its file, ``scorings`` one to how it is scored. ``draws`` counts random splits. ``margins`` are the audited
    paper's (`caploc.papers.Paper.margins`). ``elsewhere``: an engine's workers compute the results, on ``device``; this
    process, which may have no such device, touches no weight and computes nothing.

    ``reading`` says how the paper is read; its quadrature, path and value replace those of ``method`` where they depart
    from the default. Path "neuron" costs a run for every neuron, so it locates with ``neuron_path_samples`` at most.
    """

    samples: int | None = None
    share: float = 1.0
    draws: int = 100
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    data_root: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    sigmas: Sequence[float] = (PAPER_SIGMA,)
    datasets: Sequence[str] = ("gsm8k", "meta_math", "code25k", "emotion", "imdb")
    method: Method = field(default_factory=Method)
    reading: Reading = field(default_factory=Reading)
    neuron_path_samples: int | None = 24
    margins: Mapping[str, float] = field(default_factory=dict)
    scorings: Mapping[str, str] = field(default_factory=dict)
    store: Store = field(default_factory=Store)
    elsewhere: bool = False

    def margin(self, name: str) -> float:
        """The paper's margin of this name, such as ``least-loss``: the smallest loss of score that counts."""
        if name not in self.margins:
            raise OptionError(
                f"the study has no margin {name!r}; give those of the audited paper: Paper.margins"
            )
        return self.margins[name]

    def has_figures(self, sigma: float) -> bool:
        """Whether findings at ``sigma`` carry plots: at the paper's sigma, or else at the first."""
        return sigma == (PAPER_SIGMA if PAPER_SIGMA in self.sigmas else self.sigmas[0])

    def facts(self, default: int) -> int:
        """How many facts are taken: ``samples``, or the ``share`` of a ``default`` number, if so few can be judged."""
        return self.samples or max(min(FEWEST_SAMPLES, default), math.ceil(self.share * default))

    @property
    def attribution(self) -> Method:
        """``method`` under ``reading``."""
        default, asked = Reading().settings, self.reading.settings
        departing = {
            name: asked[name] for name in ("quadrature", "path", "value") if asked[name] != default[name]
        }
        return dataclasses.replace(self.method, **cast(dict[str, Any], departing))

    @property
    def restored(self) -> Kind:
        """The state that causal tracing restores under ``reading``."""
        return cast(Kind, self.reading.restored)

    def threshold(self, sigma: float) -> Threshold:
        """Eq. (8) at ``sigma`` under ``reading``."""
        reading = self.reading
        return Threshold(
            sigma,
            cast(Dispersion, reading.dispersion),
            cast(Scope, reading.scope),
            cast(Deviation, reading.deviation),
        )

    def __post_init__(self) -> None:
        if self.draws < FEWEST_DRAWS:
            raise OptionError(f"draws must be at least {FEWEST_DRAWS} for a 95 % interval, got {self.draws}")
        for name, samples in (("samples", self.samples), ("neuron_path_samples", self.neuron_path_samples)):
            if samples is not None and samples < FEWEST_SAMPLES:
                raise OptionError(
                    f"{name} must be at least {FEWEST_SAMPLES}, or halves and curves mean nothing; got {samples}"
                )


__all__ = [
    "CPU_SAMPLES",
    "PAPER_SIGMA",
    "Experiment",
    "FloorError",
    "Located",
    "Need",
    "NotRunError",
    "Study",
    "StudySettings",
    "experiment",
    "family",
    "pairs",
]

Made = TypeVar("Made")

TWINS = ("untrained", "untrained-1", "untrained-2", "untrained-3")
"""Random weights differ among themselves. Of four, with their spread over five datasets, power is .8 at 2.4 spreads
above their mean; of eight, at 2.1 and twice the cost."""
CONTROLS = ("", *TWINS, "scrambled")
_PRECISE = " in float32"


@dataclass(frozen=True)
class Located:
    """A dataset's locating examples for this model, with those that were drawn and did not fit. ``left_out``: what was
    not drawn from and why, in sentences."""

    dataset: str
    examples: Sequence[Example]
    tokenized: Sequence[TokenizedExample]
    excluded: Sequence[Exclusion]
    left_out: Sequence[str] = ()

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens, in order."""
        return fingerprint([example.content for example in self.tokenized])[:16]


class Study:
    """A model with its controls, loaded when first needed, and the results of its specs, each read or made once.

    Controls, wherever one may be named:

    ============== =====================================================================================
    ``""``         the model itself
    ``untrained``  its untrained twin (same architecture, fresh and other weights) on the same text;
                   ``untrained-1`` and so on: further twins, of the seeds that follow
    ``scrambled``  the model on text without meaning: each prompt's tokens shuffled, answers dealt out anew
                   among the examples and their tokens shuffled
    ============== =====================================================================================

    Where the study is in half precision, what that cannot tell apart (circuits, rank-one edits, single neurons) is
    asked of the same models in float32: ``precise(control)`` names them.

    ``results`` gives results beforehand, by spec: what an experiment makes of them can then be seen without a model.
    """

    def __init__(
        self,
        model: str,
        settings: StudySettings,
        lm: LanguageModel | None = None,
        results: Mapping[Spec[Any], Any] | None = None,
    ) -> None:
        self.model, self.settings = model, settings
        self._given = lm
        self._located: dict[str, Located | NotRunError] = {}
        self._results: dict[Spec[Any], Any] = dict(results or {})
        self._tasks: dict[Spec[Any], list[Task]] = {}
        self._failed: dict[Spec[Any], Exception] = {}
        self._held: tuple[object, Any, ExitStack] | None = None
        self._twins: list[LanguageModel] = []
        self._seeds = itertools.count(settings.seed)
        self._computes_nothing = settings.elsewhere
        self._on_gpu = False

    def result(self, spec: Spec[Result]) -> Result:
        """What ``spec`` names: read from the store, and computed first where it is missing there.

        Raises:
            NotRunError, FloorError: there is no such result, and why.
        """
        if spec in self._failed:
            raise self._failed[spec]
        if spec not in self._results:
            try:
                store, tasks = self.settings.store, self.tasks(spec)
                if self._computes_nothing and not all(store.has(task.key) for task in tasks):
                    raise NotStoredError(f"{spec.title} is not in the store")
                entries = store.compute_all(tasks, title=lambda _: f"{spec.kind} of {self.model}")
                self._results[spec] = spec.read(self, entries)
            except ENDINGS as ending:
                self._results[spec] = ending
            self._tasks.pop(spec, None)
        found = self._results[spec]
        if isinstance(found, ENDINGS):
            raise found
        return cast(Result, found)

    def fail(self, spec: Spec[Any], error: Exception) -> None:
        """From now on `result` raises this for ``spec``, here or elsewhere tried once: hours of work that end without
        memory would end so for every cell that needs them. What the failed run held is let go of."""
        chain: BaseException | None = error
        while chain is not None:
            traceback.clear_frames(chain.__traceback__)
            chain = chain.__cause__ or chain.__context__
        self._failed[spec] = error

    @contextmanager
    def computing_nothing(self) -> Iterator[None]:
        """Within, `result` raises `NotStoredError` for what is neither known nor stored."""
        before, self._computes_nothing = self._computes_nothing, True
        try:
            yield
        finally:
            self._computes_nothing = before

    def forget(self) -> None:
        """Let go of results, which the store keeps, and of what is held."""
        self.release()
        self._results.clear()
        self._tasks.clear()
        vars(self).pop("_precise", None)
        early = vars(self).get("early")
        if early is not None and early is not self:
            early.forget()

    def tasks(self, spec: Spec[Any]) -> list[Task]:
        """The tasks of ``spec``, kept until its result is read: their keys hash all that they depend on.

        Raises:
            NotRunError, FloorError: there is no such result, and why.
        """
        if spec not in self._tasks:
            self._tasks[spec] = list(spec.tasks(self))
        return self._tasks[spec]

    # ---------------------------------------------------------------------------------------------------- models

    @cached_property
    def lm(self) -> LanguageModel:
        """The model. Raises NotRunError where it cannot be had here: gated, absent, no network."""
        if self._given is not None:
            return self._given
        try:
            settings = self.settings
            return defer_model(
                self.model, settings.device, settings.dtype, settings.store, elsewhere=settings.elsewhere
            )
        except UnavailableModelError as error:
            raise NotRunError(str(error)) from error

    @property
    def unread(self) -> bool:
        """Whether the model's weights, which all keys hash, were never read on this store: then it holds nothing of it,
        and a plan need not read them. Those of models on a CPU are read in a moment."""
        try:
            return self.settings.device != "cpu" and isinstance(self.lm, Deferred) and not self.lm.known
        except NotRunError:
            return False

    @property
    def untrained(self) -> LanguageModel:
        """The first untrained twin."""
        return self.twin(0)

    def twin(self, number: int) -> LanguageModel:
        """An untrained twin: of the study's seed and those that follow, but for that which is the model itself."""
        while len(self._twins) <= number:
            twin = untrained_twin(self.lm, next(self._seeds))
            if twin.fingerprint != self.lm.fingerprint:
                self._twins.append(twin)
        return self._twins[number]

    @cached_property
    def early(self) -> Study:
        """The study of the model's early checkpoint under the same settings, or this study where there is none."""
        snapshot = REGISTRY[self.model].early if self.model in REGISTRY else ""
        return Study(snapshot, self.settings) if snapshot else self

    def precise(self, control: str = "") -> str:
        """The name of a control in float32 at least: its own, but in half precision."""
        if control.endswith(_PRECISE) or DTYPES[self.settings.dtype] not in HALF:
            return control
        return control + _PRECISE

    @cached_property
    def _precise(self) -> Study:
        """The same study in float32: of its own weights on the files, or of a copy of those it was given."""
        lm = self._given
        if lm is not None:
            lm = wrap(lm.name, copy.deepcopy(lm.model).float(), lm.tokenizer, lm.architecture)
        return Study(self.model, replace(self.settings, dtype="float32"), lm)

    def named(self, control: str = "") -> LanguageModel:
        """The model of a control, for its tokenizer, shape and fingerprint: its weights may lie anywhere."""
        if control.endswith(_PRECISE):
            return self._precise.named(control.removesuffix(_PRECISE))
        if control not in CONTROLS:
            raise OptionError(f"unknown control {control!r}; choose one of {', '.join(map(repr, CONTROLS))}")
        return self.twin(TWINS.index(control)) if control in TWINS else self.lm

    def weights(self, control: str = "") -> LanguageModel:
        """The model of a control with its weights on the study's device, and nothing attached to it.

        A GPU holds one of model and twins at a time, in one dtype: it was asked to have room for one. Weights of other
        twins are let go of, wherever they are: they can be drawn again.
        """
        if control.endswith(_PRECISE):
            self.make_room()
            return self._precise.weights(control.removesuffix(_PRECISE))
        self.release()
        return self._placed(control)

    def hold(
        self, key: object, control: str, attach: Callable[[LanguageModel], AbstractContextManager[Made]]
    ) -> Made:
        """What ``attach`` makes of a control's model, such as an Attributor, kept open for further tasks of ``key``.

        One thing is held at a time; `weights` and `release` close it, and leave the model as it was.
        """
        if control.endswith(_PRECISE):
            self.make_room()
            return self._precise.hold(key, control.removesuffix(_PRECISE), attach)
        if self._held is None or self._held[0] != (key, control):
            self.release()
            stack, lm = ExitStack(), self._placed(control)
            _ = lm.model  # loaded and checked before anything is attached
            self._held = ((key, control), stack.enter_context(attach(lm)), stack)
        made: Made = self._held[1]
        return made

    def release(self) -> None:
        """Close what is held."""
        if "_precise" in vars(self):
            self._precise.release()
        if self._held is not None:
            stack, self._held = self._held[2], None
            stack.close()

    def make_room(self) -> None:
        """Close what is held, and take all weights off a GPU."""
        if self._held is None and not self._on_gpu:
            return
        self.release()
        for lm in (self.lm, *self._twins):
            lm.move("cpu")
        self._on_gpu = False

    def _placed(self, control: str) -> LanguageModel:
        device = self.settings.device
        if "_precise" in vars(self):
            self._precise.make_room()
        self._on_gpu = device != "cpu"
        if device != "cpu" and control in TWINS:
            self.lm.move("cpu")  # first, as a twin is drawn where the model lies
        wanted = self.named(control)
        for twin in self._twins:
            if twin is not wanted:
                twin.let_go() if isinstance(twin, Deferred) else twin.move("cpu")
        if device != "cpu":
            wanted.move(device)
        return wanted

    # -------------------------------------------------------------------------------------------------- examples

    def located(self, dataset: str) -> Located:
        """The locating examples of ``dataset``, tokenized.

        Raises:
            NotRunError: the dataset cannot be had here, or too few of its examples fit the model.
        """
        if dataset not in self._located:
            try:
                self._located[dataset] = self._load(dataset)
            except NotRunError as error:
                self._located[dataset] = error
        found = self._located[dataset]
        if isinstance(found, NotRunError):
            raise found
        return found

    def available(self) -> list[str]:
        """The study's datasets that can be had here, in order. Raises NotRunError where it is the model that cannot."""
        found = []
        for dataset in self.settings.datasets:
            try:
                self.located(dataset)
            except NotRunError:
                continue
            found.append(dataset)
        if not found:
            _ = self.lm  # a model that cannot be had leaves no dataset that fits it
        return found

    def _load(self, dataset: str) -> Located:
        wanted = self._samples(dataset)
        part = self.drawn_from(dataset, "locate", wanted)
        by_prompt: dict[str, Example] = {}  # two halves must not share one
        for example in part.examples:
            by_prompt.setdefault(example.prompt, example)
        lost, notes = len(part.examples) - len(by_prompt), part.left_out
        if lost:
            notes = [*notes, f"{lost} examples of {dataset} left out: their prompts have another answer, too"]
        try:
            tokenized, excluded = fit(self.lm, by_prompt.values(), limit=wanted)
        except UnfitError as error:
            raise NotRunError(str(error)) from error
        if len(tokenized) < FEWEST_SAMPLES:
            left_out = [f"{number} {why}" for number, why in counted(excluded)]
            raise NotRunError(
                f"{dataset} has {len(tokenized)} examples that fit {self.lm.name} "
                f"({'; '.join([*left_out, *notes]) or 'none left out'}), and {FEWEST_SAMPLES} are the fewest that can "
                "be halved; give more data"
                + (
                    ", or take a model with a longer context"
                    if any(one.why == TooLongError.why for one in excluded)
                    else ""
                )
            )
        ids = {example.id for example in tokenized}
        kept = [example for example in part.examples if example.id in ids]
        return Located(dataset, kept, tokenized, excluded, notes)

    def drawn_from(self, dataset: str, split: str, limit: int | None) -> Part:
        """What the study draws ``limit`` examples of ``dataset`` from: take the first that fit. Raises NotRunError."""
        settings = self.settings
        form = settings.reading.gsm8k_form if dataset == "gsm8k" else "free"
        seed = None if limit is None else settings.seed
        try:
            return read_part(dataset, self.source(dataset), split, seed, form)
        except UnavailableDatasetError as error:
            raise NotRunError(str(error)) from error

    def source(self, dataset: str) -> str | None:
        """Where a dataset's records are read from, the ``path`` of ``load_examples``; None for the hub."""
        settings = self.settings
        if dataset in settings.files:
            return settings.files[dataset]
        if settings.data_root is not None:
            return settings.data_root
        if self.model in REGISTRY and REGISTRY[self.model].embedded:
            return str(embedded_data())
        return None

    def _samples(self, dataset: str) -> int | None:
        wanted, most = self._wanted_samples(dataset), self.settings.neuron_path_samples
        if self.settings.attribution.path == "layer" or most is None:
            return wanted
        return most if wanted is None else min(wanted, most)

    def _wanted_samples(self, dataset: str) -> int | None:
        if self.settings.samples is not None:
            return self.settings.samples
        if self.settings.device == "cpu":
            return CPU_SAMPLES
        return DATASETS[dataset].paper_samples if dataset in DATASETS else None

    # ---------------------------------------------------------------------------------------------------- records

    @property
    def record(self) -> dict[str, Any]:
        """What every finding says of how it came about."""
        settings = self.settings
        method = settings.attribution
        record: dict[str, Any] = {
            **{name: value for name, value in settings.reading.settings.items() if name != "restored"},
            **method.settings,  # what is restored is among the settings of each trace
            "seed": settings.seed,
            "dtype": settings.dtype,
            "device": settings.device,
            "model_fingerprint": self.lm.fingerprint[:16],
        }
        if method.path == "neuron":
            record["neuron_path_samples"] = settings.neuron_path_samples
        return record


@dataclass(frozen=True)
class Experiment:
    """How a claim is measured in a cell: what that needs, and what follows from the results."""

    name: str
    description: str
    _needs: Callable[..., Iterable[Spec[Any] | Need]]
    _measure: Callable[..., Measurement]
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, **options: Any) -> Experiment:
        """The same experiment with options set, which ``needs`` and ``measure`` then are given by name."""
        return replace(self, options={**self.options, **options})

    def needs(self, study: Any, cell: Cell, claim: Claim) -> list[Need]:
        """The specs to compute beforehand; none where it is known already that the cell cannot be measured here."""
        try:
            named = list(self._needs(study, cell, claim, **self.options))
        except ENDINGS:
            return []
        return [one if isinstance(one, Need) else Need(study, one) for one in named]

    def __call__(self, study: Any, cell: Cell, claim: Claim) -> Measurement:
        """The measurement, from results alone if `needs` were computed; one that says why there is none, if so."""
        try:
            return self._measure(study, cell, claim, **self.options)
        except NotRunError as reason:
            return Measurement(claim.id, not_run=str(reason))
        except FloorError as reason:
            return Measurement(claim.id, floor=str(reason))


def experiment(
    needs: Callable[..., Iterable[Spec[Any] | Need]],
) -> Callable[[Callable[..., Measurement]], Experiment]:
    """Make ``measure(study, cell, claim) -> Measurement`` an experiment that names what it needs first.

    ``needs`` takes the same arguments, options included, and gives specs of the study, or `Need`s of others.
    """

    def made(measure: Callable[..., Measurement]) -> Experiment:
        name = f"{measure.__module__.rpartition('.')[2]}.{measure.__name__}"
        return Experiment(name, measure.__doc__ or "", needs, measure)

    return made


def family(
    needs: Callable[..., Iterable[Spec[Any] | Need]],
    find: Callable[[Study, Cell, Claim], Made],
    complete: Callable[[Made, Measurement], Measurement],
) -> Callable[[Callable[..., Measurement]], Experiment]:
    """Make functions ``measure(found, study, cell, claim) -> Measurement`` experiments that share their needs, what
    they ``find`` in the results, and what ``complete`` adds to each one's own numbers."""

    def made(measure: Callable[..., Measurement]) -> Experiment:
        @wraps(measure)
        def measured(study: Study, cell: Cell, claim: Claim, **options: Any) -> Measurement:
            found = find(study, cell, claim)
            return complete(found, measure(found, study, cell, claim, **options))

        return experiment(needs)(measured)

    return made


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """All unordered pairs, in order."""
    return list(itertools.combinations(names, 2))
