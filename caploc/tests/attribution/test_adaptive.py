"""The adaptive rule: exact weights, the stated completeness error with few points, and the converged result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caploc
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.integrate import _BOOLE, _GAPS, Integral, integrate_adaptive
from caploc.attribution.method import Tolerance
from caploc.errors import ModelError, OptionError
from caploc.examples import TokenizedExample, fit
from caploc.model.loading import LanguageModel, load_model
from caploc.rows.clean import run_clean
from caploc.tests.attribution.analytic import Analytic, polynomial, step
from caploc.tests.attribution.test_exactness import random_example, relative_error, small_model
from caploc.tests.tiny import REPOSITORY, SHARED


def integrate(model: Analytic, tolerance: Tolerance, chunk: int = 1000) -> Integral:
    return integrate_adaptive(model, model.clean, model.unscaled, tolerance, chunk)  # type: ignore[arg-type]


def errors_of(model: Analytic, integral: Integral) -> np.ndarray:
    return np.abs(model.attributed(integral.gradients) - model.true_change())


class Result(NamedTuple):
    """Of one example: ``errors``, ``gap`` and ``points`` are ``[layers, positions]``, ``scores [layers, neurons]``."""

    errors: torch.Tensor
    gap: torch.Tensor
    points: torch.Tensor
    scores: torch.Tensor


def attributed(
    lm: LanguageModel, example: TokenizedExample, tolerance: Tolerance, chunk: int = 1280
) -> Result:
    """The adaptive rule on one example, its completeness error summed over the neurons themselves."""
    with Attributor(lm, Method()) as attributor:
        packed = attributor._packed
        clean = run_clean(lm.model, lm.architecture, example.input_ids, example.answer_start)
        integral = integrate_adaptive(packed, clean, packed.run_unscaled(clean), tolerance, chunk)
        neurons = torch.stack(
            [
                activation.double() * packed.to_neurons(layer, integral.gradients[layer]).double()
                for layer, activation in enumerate(clean.activations)
            ]
        )  # [layers, positions, neurons]
    change = (integral.end - integral.start).double()
    return Result((neurons.sum(-1) - change).abs(), change.abs(), integral.points.double(), neurons.mean(1))


def converged(lm: LanguageModel, example: TokenizedExample) -> torch.Tensor:
    with Attributor(lm, Method(steps=199, quadrature="gauss-legendre")) as attributor:
        return torch.from_numpy(attributor.sums([example]).total)


# ------------------------------------------------------------------------------------------------ weights


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5), st.floats(-1, 1))
def test_gap_weights_are_exact_for_quartics_and_their_sum_for_quintics(
    slopes: list[float], fifth: float
) -> None:
    """Adams-Moulton between neighbouring nodes, Boole over all five."""
    quartic, nodes = np.polynomial.Polynomial(slopes), np.arange(5)
    expected = np.diff(quartic.integ()(nodes))
    assert np.allclose(_GAPS @ quartic(nodes), expected, rtol=1e-12, atol=1e-12)
    quintic = np.polynomial.Polynomial([*slopes, fifth])
    assert np.isclose(
        _BOOLE @ quintic(nodes), quintic.integ()(4) - quintic.integ()(0), rtol=1e-12, atol=1e-11
    )
    assert np.allclose(_BOOLE * 45, [14, 64, 24, 64, 14])


# ------------------------------------------------------------------------------------------------ known integrands


def test_five_points_suffice_where_p_is_a_quintic() -> None:
    model = Analytic([[polynomial(0.2, 0.3, -1, 0.7, 1, -0.4)], [polynomial(0.5)]])
    integral = integrate(model, Tolerance(relative=0, absolute=1e-12))
    assert (integral.points == 5).all()
    assert (errors_of(model, integral) < 1e-14).all()
    assert model.evaluated == 2 * 4  # alpha = 1 comes from the shared pass


places = st.floats(0.02, 0.98)
sharpness = st.floats(1, 300)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(places, sharpness, st.floats(-1, 1)), min_size=4, max_size=4),
    st.sampled_from([1e-2, 1e-4, 1e-7]),
)
def test_the_tolerance_is_kept_for_every_layer_and_position(
    steps: Sequence[tuple[float, float, float]], absolute: float
) -> None:
    curves = [step(*parameters) for parameters in steps]
    model = Analytic([curves[:2], curves[2:]])
    tolerance = Tolerance(0.01, absolute, most_points=10_000)
    integral = integrate(model, tolerance)
    assert (errors_of(model, integral) <= 0.01 * np.abs(model.true_change()) + absolute).all()
    assert np.allclose(integral.end - integral.start, model.true_change(), atol=1e-14)


def test_points_go_where_the_step_is() -> None:
    model = Analytic([[polynomial(0, 0.4, 0.2), step(0.13, 150), step(0.61, 150)], [polynomial(0.1)] * 3])
    integral = integrate(model, Tolerance())
    assert integral.points[1].tolist() == [5, 5, 5] and integral.points[0, 0] == 5
    assert (integral.points[0, 1:] > 20).all() and (integral.points[0, 1:] < 80).all()
    assert model.evaluated == int(integral.points.sum()) - 6, "no point is evaluated twice"


def test_a_tighter_tolerance_costs_more_and_errs_less() -> None:
    errors, points = [], []
    for absolute in (1e-1, 1e-3, 1e-5, 1e-8):
        model = Analytic([[step(0.2, 40), step(0.5, 25)]])
        integral = integrate(model, Tolerance(0, absolute))
        errors.append(errors_of(model, integral).max())
        points.append(int(integral.points.sum()))
    assert points == sorted(set(points)) and errors == sorted(errors, reverse=True) and errors[-1] <= 1e-8


@pytest.mark.parametrize("most", [5, 8, 9, 30, 257])
def test_most_points_ends_the_refinement_of_what_never_converges(most: int) -> None:
    """As in bfloat16, whose rounding no refinement removes: the error is reported and not hidden."""
    noise = np.random.default_rng(0)
    rough = (lambda x: noise.normal(size=x.shape), lambda x: noise.normal(size=x.shape))
    model = Analytic([[rough, polynomial(0.1, 0.2), rough]])
    integral = integrate(model, Tolerance(most_points=most))
    assert (integral.points <= most).all() and integral.points[0, 1] == 5
    assert integral.points[0, 0] > most / 2
    assert integral.completeness_error(model.clean, model).abs().max() > 0.01  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_passes_hold_no_more_tokens_than_allowed(chunk: int) -> None:
    curves = [[step(0.1 * position + 0.05, 60) for position in range(7)]]
    whole, model = integrate(Analytic(curves), Tolerance(), 10_000), Analytic(curves)
    parts = integrate(model, Tolerance(), chunk)
    assert model.widest <= max(chunk, 4)  # one position's four new points at least
    assert np.allclose(parts.gradients, whole.gradients, rtol=1e-14, atol=0)
    assert torch.equal(parts.points, whole.points)


@pytest.mark.parametrize(
    "bad",
    [
        {"relative": -0.1},
        {"absolute": 0},
        {"absolute": -1},
        {"relative": float("nan")},
        {"absolute": float("nan")},
    ],
)
def test_a_tolerance_that_is_not_positive(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=r"^tolerances must be positive, got relative "):
        Tolerance(**bad)


def test_fewer_points_than_a_panel_has() -> None:
    with pytest.raises(OptionError, match=r"^the adaptive rule needs at least 5 points, got most_points=4$"):
        Tolerance(most_points=4)


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt"])
def test_random_models(family: str) -> None:
    """Wide random weights make P as uneven as a trained model's."""
    lm, example, tolerance = small_model(family, torch.float64), random_example(9, 6), Tolerance(0.01, 1e-5)
    result = attributed(lm, example, tolerance)
    assert (result.errors <= 0.01 * result.gap + 1e-5).all()
    exact = converged(lm, example)
    assert relative_error(result.scores, exact) < 0.02
    tight = attributed(lm, example, Tolerance(0, 1e-9, most_points=1000))
    # GPT-J computes attention in float32; OPT's ReLU bends P, where 200 Gauss-Legendre nodes err themselves
    assert relative_error(tight.scores, exact) < {"gptj": 1e-5, "opt": 2e-3}.get(family, 1e-8)
    assert tight.points.mean() > result.points.mean() and tight.errors.max() < result.errors.max()


def test_chunk_sizes_change_nothing_but_rounding() -> None:
    lm, example = small_model("llama", torch.float64), random_example(9, 6)
    whole = attributed(lm, example, Tolerance())
    for chunk in (1, 10, 50):
        parts = attributed(lm, example, Tolerance(), chunk)
        assert relative_error(parts.scores, whole.scores) < 1e-12 and torch.equal(parts.points, whole.points)


def trained(name: str) -> LanguageModel:
    try:
        return load_model(name)
    except ModelError:
        pytest.skip(f"fixtures/models/{name} is not in this checkout; make it with python -m fixtures.make")


@pytest.mark.parametrize("dataset", ["gsm8k", "emotion"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gptj", "stories260K"])
def test_trained_models_with_30_points_on_average(name: str, dataset: str) -> None:
    """The tolerance is kept for every layer and position of every example, hence also for each layer's mean."""
    if name == "stories260K":
        if not (SHARED / "models" / name).is_dir() or not (SHARED / "data").is_dir():
            pytest.skip(
                f"no real model and data: put {name} into {SHARED / 'models'}, samples into {SHARED / 'data'}"
            )
        lm, root = load_model(SHARED / "models" / name), SHARED / "data"
    else:
        lm, root = trained(name), REPOSITORY / "fixtures" / "data"
    examples = caploc.load_examples(dataset, root, split="locate", limit=8)
    tokenized, _ = fit(lm, examples)
    assert len(tokenized) >= 6
    results = [attributed(lm, example, Tolerance()) for example in tokenized]
    for result in results:
        assert (result.errors <= 0.01 * result.gap + 0.001).all()
    assert torch.cat([result.points for result in results], 1).mean() <= 30

    few = {example.id for example in tokenized[:3]}
    chosen = [example for example in examples if example.id in few]
    scores = caploc.attribute(lm, chosen, quadrature="adaptive", progress=False)
    assert (scores.completeness <= 0.01 * scores.gap + 0.001).all() and scores.count == 3
    mean = torch.stack([result.errors.mean(1) for result in results[:3]]).mean(0)
    assert torch.allclose(scores.completeness, mean, rtol=1e-3, atol=1e-6)
    assert (
        relative_error(scores.values, torch.stack([result.scores for result in results[:3]]).mean(0)) < 1e-5
    )
