"""What any locator owes its caller, whatever it finds: an answer that can be read, the same one twice, in time, and the
model as it was.

Every call gets a copy of the model made for it, so that none is the worse for what an earlier one did.
"""

from __future__ import annotations

import copy
import inspect
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from caploc.examples import Example, tokenize
from caploc.metrics import Location
from caploc.model.loading import LanguageModel, wrap
from caploc.neurons import NeuronMask, NeuronScores
from caploc.streams import Stream, stream

if TYPE_CHECKING:
    from caploc.check.isolation import Say
    from caploc.zoo import ZooModel

Locate = Callable[..., Any]
Calls = dict[str, tuple[Sequence[Example], Sequence[Example]]]
"""Name of a call -> the examples to locate on, and examples of other tasks for locators that contrast."""
Duty = Literal[
    "runs", "in-time", "shape", "finite", "not-empty", "not-all", "weights", "flags", "hooks", "deterministic"
]
DUTIES: Mapping[Duty, str] = {
    "runs": "returns without an exception and does not end the process",
    "in-time": "each call ends within the timeout",
    "shape": "returns a location, or scores or a mask [layers, neurons]",
    "finite": "no score is nan or infinite",
    "not-empty": "finds at least one neuron where some were planted, or gives scores that are not all equal",
    "not-all": "does not find every neuron of the model",
    "weights": "leaves parameters and buffers bit for bit as they were",
    "flags": "leaves requires_grad, gradients, training mode and torch's own switches as they were",
    "hooks": "leaves no hook and no replaced forward behind",
    "deterministic": "gives the same on the same examples twice",
}
"""What is checked on every model (``deterministic``: on the first), in the order in which it is shown."""
_REMEDY = "return a NeuronMask, NeuronScores, or a tensor of scores (float) or members (bool)"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, eq=False)
class Found:
    """What a call gave, as arrays ``[layers, neurons]``.

    Attributes:
        scores: by which neurons rank, the largest |score| first; None where a set alone was given.
        chosen: the set; None where scores alone were given, or places that are no neurons (layers, edges).
    """

    scores: Float[np.ndarray, "layers neurons"] | None
    chosen: Bool[np.ndarray, "layers neurons"] | None

    def same(self, other: Found) -> bool:
        """Whether both are equal to the last bit."""
        pairs = ((self.scores, other.scores), (self.chosen, other.chosen))
        return all(
            (one is None and two is None)
            or (one is not None and two is not None and np.array_equal(one, two))
            for one, two in pairs
        )


@dataclass
class Trial:
    """What a locator did on one model. ``found`` by call; ``failures`` by the duty that failed, with the reason.

    ``seconds``: CPU time of the call on all examples. ``passes``: tokens that entered MLPs in it, per token that one
    forward pass over the examples would send through them; a backward pass is not counted.
    """

    found: dict[str, Found] = field(default_factory=dict)
    failures: dict[Duty, str] = field(default_factory=dict)
    seconds: float = 0.0
    passes: float = 0.0

    @property
    def main(self) -> Found | None:
        """What was found on all examples."""
        return self.found.get("all examples")


class _Broken(Exception):
    """A duty that was not done."""

    def __init__(self, duty: Duty, reason: str) -> None:
        super().__init__(reason)
        self.duty: Duty = duty


def calls(model: ZooModel, repeat: bool) -> Calls:
    """The calls that a check of ``model`` makes; ``repeat``: one of them twice.

    Without planted neurons there are no halves to agree and no other task to tell apart.
    """
    others = [one for examples in model.others.values() for one in examples]
    # drawn, because examples often stand in turns, so that every second one is of another answer
    order = stream(Stream.CHECK_HALVES, 0).permutation(len(model.examples))
    middle = (len(order) + 1) // 2
    halves = [[model.examples[at] for at in sorted(some)] for some in (order[:middle], order[middle:])]
    planned: Calls = {"all examples": (model.examples, others)}
    if repeat:
        planned["the same again"] = (halves[0], others)
    if model.neurons.any():
        planned |= {"first half": (halves[0], others), "second half": (halves[1], others)}
        for name, examples in list(model.others.items())[:1]:
            rest = [one for key, more in model.others.items() if key != name for one in more]
            planned[f"other task {name}"] = (examples, [*model.examples, *rest])
    elif repeat:
        planned["first half"] = (halves[0], others)
    return planned


def attempt(locate: Locate, model: ZooModel, options: Mapping[str, Any], planned: Calls, say: Say) -> Trial:
    """Make the ``planned`` calls; the first that gives nothing to read is the last."""
    trial, contrasts = Trial(), takes_others(locate)
    for name, (examples, others) in planned.items():
        say(name)
        given = {**({"others": others} if contrasts else {}), **options}
        lm = _copy(model.lm)
        before = _State.of(lm)
        try:
            with _counted(lm, examples) as count:
                start = _cpu_seconds()
                found = _found(locate, lm, examples, given)
                seconds = _cpu_seconds() - start
            for duty, reason in before.changes(lm):
                trial.failures.setdefault(duty, f"{reason} (call: {name})")
        except _Broken as broken:
            trial.failures[broken.duty] = f"{broken} (call: {name})"
            return trial
        finally:
            _restore_switches(before)
        trial.found[name] = found
        if name == "all examples":
            trial.seconds, trial.passes = seconds, count()
            trial.failures.update(_of_size(found, bool(model.neurons.any())))
    if "the same again" in planned and not trial.found["the same again"].same(trial.found["first half"]):
        trial.failures["deterministic"] = (
            "two calls on the same examples, on fresh copies of the model, differ; fix the seed of what is drawn"
        )
    return trial


def takes_others(locate: Locate) -> bool:
    """Whether a locator has a parameter ``others``: it is then given examples of tasks that are not to be located."""
    try:
        return "others" in inspect.signature(getattr(locate, "locate", locate)).parameters
    except (TypeError, ValueError):  # a builtin has no signature
        return False


def read(result: Any, shape: tuple[int, int]) -> Found:
    """What a locator returned, as arrays.

    A `NeuronMask` may carry the scores it was cut from. Places that are no neurons rank the neurons of their layers.
    """
    scores: Any = None
    chosen: Any = None
    if isinstance(result, NeuronMask):
        chosen, scores = result.values, result.scores
    elif isinstance(result, NeuronScores):
        scores = result.values
    elif isinstance(result, Tensor | np.ndarray):
        is_set = result.dtype in (torch.bool, np.dtype(bool))
        scores, chosen = (None, result) if is_set else (result, None)
    elif isinstance(result, Location):
        votes = np.asarray(result.votes, dtype=np.float64)
        scores = np.repeat(votes[:, None], shape[1], 1) if votes.ndim == 1 else votes
    else:
        raise _Broken("shape", f"returned {type(result).__name__}; {_REMEDY}")
    arrays = [None if one is None else _array(one) for one in (scores, chosen)]
    for one in arrays:
        if one is not None and one.shape != shape:
            raise _Broken(
                "shape", f"returned shape {list(one.shape)}, the model has {list(shape)}; {_REMEDY}"
            )
    found = Found(None if arrays[0] is None else arrays[0].astype(np.float64), arrays[1])
    if found.scores is not None and not np.isfinite(found.scores).all():
        bad = int((~np.isfinite(found.scores)).sum())
        raise _Broken("finite", f"{bad} of {found.scores.size} scores are nan or infinite")
    return found


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        if values.is_complex():
            raise _Broken("shape", f"returned values of type {values.dtype}; {_REMEDY}")
        values = values.detach().cpu()  # bfloat16 has no numpy type
        values = (values.double() if values.is_floating_point() else values).numpy()
    if values.dtype.kind not in "bfiu":
        raise _Broken("shape", f"returned values of type {values.dtype}; {_REMEDY}")
    return values


def _found(
    locate: Locate, lm: LanguageModel, examples: Sequence[Example], options: Mapping[str, Any]
) -> Found:
    try:
        result = locate(lm, list(examples), **options)
    except BaseException as error:  # noqa: BLE001  foreign code may raise anything, SystemExit too
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        at = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        text = " ".join(str(error).split())[:300]
        raise _Broken("runs", f"raised {type(error).__name__}: {text}{at}") from None
    return read(result, (lm.num_layers, lm.num_neurons))


def _of_size(found: Found, planted: bool) -> Iterator[tuple[Duty, str]]:
    """What is wrong with how much was found."""
    if found.chosen is not None:
        if planted and not found.chosen.any():
            yield "not-empty", "found no neuron where some were planted; lower the threshold"
        if found.chosen.all():
            yield "not-all", f"found all {found.chosen.size} neurons; raise the threshold"
    elif found.scores is not None and planted and np.ptp(found.scores) == 0:
        yield "not-empty", "gave all neurons one score, which ranks none before another"


def _copy(lm: LanguageModel) -> LanguageModel:
    return wrap(lm.name, copy.deepcopy(lm.model), lm.tokenizer, lm.architecture)


def _cpu_seconds() -> float:
    """Of this process and of those that it started and saw end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextmanager
def _counted(lm: LanguageModel, examples: Sequence[Example]) -> Iterator[Callable[[], float]]:
    """Count tokens that enter MLPs; the hooks are gone before a locator's own are looked for."""
    tokens = [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens[0] += inputs[0].numel() // inputs[0].shape[-1]

    own = sum(len(tokenize(lm, one).input_ids) for one in examples) * lm.num_layers
    handles = [lm.architecture.mlp_out_of(layer).register_forward_pre_hook(count) for layer in lm.layers]
    try:
        yield lambda: tokens[0] / own
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class _State:
    """All of a model that a locator must leave as it is."""

    tensors: Mapping[str, Tensor]
    flags: Mapping[str, object]
    hooks: Mapping[str, object]

    @classmethod
    def of(cls, lm: LanguageModel, copies: bool = True) -> _State:
        model: nn.Module = lm.model
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        flags: dict[str, object] = {
            "torch.is_grad_enabled()": torch.is_grad_enabled(),
            "torch.get_default_dtype()": torch.get_default_dtype(),
        }
        hooks: dict[str, object] = {}
        for name, parameter in model.named_parameters():
            flags[f"{name}.requires_grad"] = parameter.requires_grad
            flags[f"{name}.grad is None"] = parameter.grad is None
        for name, module in model.named_modules():
            path = name or "the model"
            flags[f"training mode of {path}"] = module.training
            hooks[f"hooks of {path}"] = tuple(tuple(getattr(module, kind)) for kind in _HOOKS)
            hooks[f"forward of {path}"] = id(module.__dict__.get("forward"))
        return cls(
            {name: one.detach().clone() if copies else one.detach() for name, one in named.items()},
            flags,
            hooks,
        )

    def changes(self, lm: LanguageModel) -> Iterator[tuple[Duty, str]]:
        """The first change of each kind."""
        now = _State.of(lm, copies=False)
        for name in [*self.tensors, *(now.tensors.keys() - self.tensors.keys())]:
            one, two = self.tensors.get(name), now.tensors.get(name)
            if one is None or two is None or not _same_bits(one, two):
                yield "weights", f"changed {name}; restore it, also where an exception is raised"
                break
        for duty, before, after in (("flags", self.flags, now.flags), ("hooks", self.hooks, now.hooks)):
            for name in [*before, *(after.keys() - before.keys())]:
                if before.get(name) != after.get(name):
                    what = f"{name} was {before.get(name)}, is {after.get(name)}" if duty == "flags" else name
                    yield duty, f"changed {what}"  # type: ignore[misc]
                    break


def _same_bits(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
        return False
    as_bytes = [each.contiguous().reshape(-1).view(torch.uint8) for each in (one, two)]
    return torch.equal(as_bytes[0], as_bytes[1])


def _restore_switches(state: _State) -> None:
    torch.set_grad_enabled(bool(state.flags["torch.is_grad_enabled()"]))
    torch.set_default_dtype(state.flags["torch.get_default_dtype()"])  # type: ignore[arg-type]
