"""The GPU benchmark: what this card does in a second on a model of a named shape with random weights, and how many
hours the paper's GSM8K takes at that rate; nothing is downloaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from caploc import costs
from caploc.architectures import ARCHITECTURES
from caploc.attribution.engine import Attributor, Method
from caploc.benchmarks import Options
from caploc.benchmarks.tables import Spread, Table, Value
from caploc.datasets import DATASETS
from caploc.defaults import DEFAULTS
from caploc.errors import OptionError
from caploc.evaluation import evaluate, prepare
from caploc.examples import Example, TokenizedExample
from caploc.experiments.enhancement_arms import KINDS, LAST, OTHERS, RUNS, epochs_of
from caploc.experiments.erasure_sets import BESIDE, FEW_SETS, ON_OTHERS
from caploc.interventions.enhancement import Recipe
from caploc.interventions.enhancement.batches import Batches
from caploc.interventions.enhancement.training import Trainer
from caploc.locators.magnitude import random_sets
from caploc.model.loading import LanguageModel
from caploc.model.registry import REGISTRY
from caploc.neurons import NeuronMask
from caploc.rows.sizing import shape_of
from caploc.tests.tiny import tokenizer

TINY = costs.Shape(2, 32, 64, 64, 0, heads=4, key_heads=4, head_size=8)
"""Runs on a CPU, so that the benchmark is tested: its rates mean nothing."""
SAMPLES = 1600
"""Of GSM8K, with which the paper locates (section 5.3)."""


@dataclass(frozen=True)
class Sizes:
    """``examples`` of ``prompt`` X and ``answer`` Y tokens are attributed; ``items`` evaluated with ``sets`` erased,
    teacher forced and writing ``written`` tokens; ``batch`` examples in a training step."""

    examples: int
    prompt: int
    answer: int
    sets: int
    items: int
    written: int
    batch: int


FULL = Sizes(examples=4, prompt=100, answer=120, sets=100, items=4, written=150, batch=16)
QUICK = Sizes(examples=1, prompt=10, answer=4, sets=4, items=1, written=6, batch=2)


LENGTHS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"gsm8k": (100, 120), "meta_math": (100, 180), "code25k": (40, 150), "emotion": (45, 2), "imdb": (330, 1)}
)
"""Tokens of a prompt and an answer of the paper's datasets, as Llama 2 counts them: rough means, assumed."""
WRITTEN = 150
"""Tokens that a text may have of those that are generated, ``GENERATED``; half of them are written on average."""
GENERATED = ("gsm8k", "meta_math")
CONTROLS, SIGMAS, TRAINED_ON = 3, 2, ("gsm8k", "emotion", "code25k")
"""Locating: of the model itself, of twins and of scrambled text; sigmas and datasets of Tables 2 and 3."""


@dataclass
class Measured:
    """What took how long: seconds of each round; ``peak`` bytes, None on a CPU; ``flops`` by `caploc.costs`."""

    seconds: list[float]
    peak: int | None
    flops: float


def model_of(name: str) -> LanguageModel:
    """A model of the registry's shape, or ``tiny``, with random weights: on the GPU in bfloat16, ``tiny`` on the CPU.

    Raises:
        OptionError: there is no shape of that name, no GPU for it, or none with enough memory.
    """
    names = [one for one, entry in REGISTRY.items() if entry.shape]
    if name != "tiny" and name not in names:
        raise OptionError(f"--shape {name}: unknown; choose one of tiny, {', '.join(names)}")
    if name == "tiny":
        return _random(name, "llama", TINY, torch.device("cpu"), torch.float32)
    if not torch.cuda.is_available():
        raise OptionError(f"--shape {name} needs a CUDA GPU, and there is none; --shape tiny runs on a CPU")
    entry, device = REGISTRY[name], torch.device("cuda", torch.cuda.current_device())
    least, found = entry.min_gb("attribution"), torch.cuda.get_device_properties(device).total_memory / 1e9
    if found < least:
        raise OptionError(f"--shape {name} needs a GPU with {least} GB, the one found has {found:.0f} GB")
    assert entry.shape is not None
    return _random(name, entry.family, entry.shape, device, torch.bfloat16)


def _random(
    name: str, family: str, shape: costs.Shape, device: torch.device, dtype: torch.dtype
) -> LanguageModel:
    own = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.neurons,
        "n_inner": shape.neurons,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(family, **own)
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return LanguageModel(name, model.eval().requires_grad_(False), tokenizer(), ARCHITECTURES[family])


def measure_rates(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each kind of work; then one of hours."""
    lm = model_of(options.shape)
    shape = shape_of(lm)
    device = (
        torch.cuda.get_device_name(lm.device) if lm.device.type == "cuda" else "the CPU: rates mean nothing"
    )
    title = f"Work on {device}: {options.shape}, random weights, {str(lm.dtype).removeprefix('torch.')}"
    table = Table(
        "rates",
        title,
        notes=[
            f"attribution: X = {sizes.prompt}, Y = {sizes.answer}, 20 points; erasure: {sizes.sets} random sets of 20 "
            f"neurons of the middle layer; generation: {sizes.written} tokens, none erased; training: 20 neurons",
            "wall-clock seconds behind one untimed round; TFLOP by caploc.costs; peak memory with the weights",
        ],
    )
    works: dict[str, tuple[int, float, Callable[[], object]]] = {
        "attribution": _attribution(lm, sizes, shape),
        "erasure": _evaluation(lm, sizes, shape, "tokens"),
        "generation": _evaluation(lm, sizes, shape, "exact"),
    }
    found = {name: _timed(lm, work, flops, options.repeat) for name, (_, flops, work) in works.items()}
    with _training(lm, sizes) as step:
        flops = costs.training_flops(
            shape, sizes.batch * (sizes.prompt + sizes.answer), sizes.batch * sizes.answer
        )
        works["located training"] = (sizes.batch, flops, step)
        found["located training"] = _timed(lm, step, flops, options.repeat)
    for name, (samples, _, _) in works.items():
        table.rows.append(_row(name, samples, found[name]))
    yield table
    yield _hours(options.shape, shape, sizes, works["attribution"][0], found["attribution"])


def measure_hours(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each of the paper's models: what a plan reckons at the paper's sizes, from shapes alone."""
    table = Table(
        "hours",
        "Hours of one H100 at 80 GB that the paper's audit takes by the cost model, not measured",
        notes=[
            "where every base has something to lose and nothing is stopped early; claims about single facts and rivals "
            "are left out; lengths of texts are assumed, see caploc.benchmarks.gpu",
            "by caploc.costs, at 400 TFLOP/s in long passes, 25 microseconds a kernel in steps of one token; memory is "
            "what a cell asks for at least, in a run in bfloat16",
        ],
    )
    for name, entry in REGISTRY.items():
        if entry.paper and entry.shape is not None:
            hours = audit_hours(entry.shape)
            memory = {f"{need} GB": entry.min_gb(need) for need in ("attribution", "precise", "training")}
            table.rows.append({"model": name, **hours, "in all": sum(hours.values()), **memory})
    yield table


def audit_hours(shape: costs.Shape) -> dict[str, float]:
    """By family, in bfloat16: of locating, erasing and training, with their evaluations."""
    counts = {name: DATASETS[name].paper_samples or 0 for name in LENGTHS}

    def evaluation(name: str) -> float:
        prompt, answer = LENGTHS[name]
        read = 2.0 * shape.parameters * (prompt + answer)
        writes = name in GENERATED
        held_up = costs.held_up_flops(shape, 2, prompt + answer + WRITTEN) * WRITTEN / 2 if writes else 0.0
        return counts[name] * (read + held_up)

    once = {name: evaluation(name) for name in LENGTHS}
    locating = sum(counts[name] * costs.attribution_flops(shape, *LENGTHS[name], 20) for name in LENGTHS)
    at_home = 3 + FEW_SETS + 2 * BESIDE + int(DEFAULTS["draws"]) // 2
    elsewhere = sum(ON_OTHERS.values()) * (len(once) - 1)
    erasing = (at_home + elsewhere) * sum(once.values())
    training = 0.0
    for name in TRAINED_ON:
        read = counts[name] * LENGTHS[name][1]
        tokens = counts[name] * sum(LENGTHS[name])
        for arm, runs in RUNS.items():
            trained = shape.mlp_parameters if KINDS[arm] == OTHERS else 0.0
            evaluated = sum(once.values()) + (len(epochs_of(arm)) - 1) * once[name]
            training += runs * (LAST * costs.training_flops(shape, tokens, read, trained) + evaluated)
    work = {"locating": CONTROLS * locating, "erasure": SIGMAS * erasing, "enhancement": SIGMAS * training}
    return {name: flops / costs.RATE / 3600 for name, flops in work.items()}


def _row(name: str, samples: int, measured: Measured) -> dict[str, Value]:
    seconds = measured.seconds
    return {
        "work": name,
        "samples": samples,
        "samples/s": Spread.of([samples / one for one in seconds]),
        "TFLOP/s": Spread.of([measured.flops / one / 1e12 for one in seconds]) if measured.flops else None,
        "s": Spread.of(seconds),
        "peak GB": None if measured.peak is None else measured.peak / 1e9,
    }


def _hours(name: str, shape: costs.Shape, sizes: Sizes, samples: int, measured: Measured) -> Table:
    """What locating on GSM8K takes by the measured rate, and by the formula that a plan uses."""
    reckoned = costs.attribution_flops(shape, sizes.prompt, sizes.answer, 20) * SAMPLES / costs.RATE / 3600
    row: dict[str, Value] = {
        "shape": name,
        "samples": SAMPLES,
        "hours": Spread.of([one / samples * SAMPLES / 3600 for one in measured.seconds]),
        "hours by plan": reckoned,
    }
    return Table("rates-hours", f"Locating on GSM8K, X = {sizes.prompt}, Y = {sizes.answer}", [row])


def _timed(lm: LanguageModel, work: Callable[[], object], flops: float, repeat: int) -> Measured:
    gpu = lm.device.type == "cuda"
    work()
    if gpu:
        torch.cuda.reset_peak_memory_stats(lm.device)
    seconds = []
    for _ in range(repeat):
        if gpu:
            torch.cuda.synchronize(lm.device)
        began = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize(lm.device)
        seconds.append(time.perf_counter() - began)
    return Measured(seconds, torch.cuda.max_memory_allocated(lm.device) if gpu else None, flops)


def _examples(lm: LanguageModel, count: int, sizes: Sizes) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 50, (count, sizes.prompt + sizes.answer), generator=generator)
    return [TokenizedExample(row, sizes.prompt, f"random-{number}") for number, row in enumerate(ids)]


def _few(lm: LanguageModel) -> NeuronMask:
    values = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    values[lm.num_layers // 2, :20] = True
    return NeuronMask(values)


def _attribution(
    lm: LanguageModel, sizes: Sizes, shape: costs.Shape
) -> tuple[int, float, Callable[[], object]]:
    examples = _examples(lm, sizes.examples, sizes)

    def work() -> None:
        with Attributor(lm, Method()) as attributor:
            attributor.sums(examples)

    flops = costs.attribution_flops(shape, sizes.prompt, sizes.answer, 20) * len(examples)
    return len(examples), flops, work


def _evaluation(
    lm: LanguageModel, sizes: Sizes, shape: costs.Shape, scoring: str
) -> tuple[int, float, Callable[[], object]]:
    """Teacher forced with all sets erased, counted as if they shared nothing; or of the model itself, writing, whose
    operations say little."""
    letters = np.random.default_rng(0).choice(list("abcdefgh"), (sizes.items, sizes.prompt + sizes.answer))
    texts = ["".join(row) for row in letters]
    examples = [
        Example(f"e{number}", text[: sizes.prompt], text[sizes.prompt :]) for number, text in enumerate(texts)
    ]
    prepared = prepare(
        lm, "random", examples, scoring, max_new_tokens=sizes.written if scoring == "exact" else None
    )
    if scoring == "exact":
        return sizes.items, 0.0, partial(evaluate, lm, prepared, progress=False)
    sets = random_sets(_few(lm), sizes.sets, seed=0)
    count = sizes.items * sizes.sets
    tokens, read = count * (sizes.prompt + sizes.answer), count * sizes.answer
    return (
        count,
        costs.forward_flops(shape, tokens, read),
        partial(evaluate, lm, prepared, sets, progress=False),
    )


@contextmanager
def _training(lm: LanguageModel, sizes: Sizes) -> Iterator[Callable[[], object]]:
    recipe = Recipe(batch_size=sizes.batch)
    batches = Batches(lm, _examples(lm, sizes.batch, sizes), recipe)
    with Trainer(lm, _few(lm), recipe) as trainer:

        def step() -> None:
            trainer.gradients(batches, np.arange(len(batches)))
            trainer.update()

        yield step
