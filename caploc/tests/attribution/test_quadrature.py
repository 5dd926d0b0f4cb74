"""The fixed rules: eq. (7) literally, weights, exactness, and their use for every layer and position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.attribution.engine import Method
from caploc.attribution.integrate import Integral, integrate_fixed
from caploc.attribution.method import FIXED_RULES, QUADRATURES, fixed_rule
from caploc.errors import OptionError
from caploc.papers import load_paper
from caploc.tests.attribution.analytic import Analytic, polynomial, step

steps = st.integers(1, 40)


def integrate(model: Analytic, name: str, count: int, chunk: int = 1000) -> Integral:
    return integrate_fixed(model, model.clean, model.unscaled, *fixed_rule(name, count), chunk)  # type: ignore[arg-type]


def test_a_constant_gradient_gives_20_nineteenths_literally() -> None:
    """Definition eq7-score: the sum over n = 0..S has S + 1 = 20 terms and is divided by S = 19."""
    assert "20/19" in load_paper("capability_localization").definitions["eq7-score"].check
    nodes, weights = fixed_rule("paper", 19)
    assert len(nodes) == 20 and nodes[0] == 0 and nodes[-1] == 1
    assert np.array_equal(nodes, np.arange(20) / 19) and np.array_equal(weights, np.full(20, 1 / 19))
    model = Analytic([[polynomial(0.1, 0.5)]])
    assert model.attributed(integrate(model, "paper", 19).gradients) == pytest.approx(
        0.5 * 20 / 19, rel=1e-15
    )
    for name in ("trapezoid", "gauss-legendre"):
        assert model.attributed(integrate(model, name, 19).gradients) == pytest.approx(0.5, rel=1e-14)


def test_the_papers_rule_is_the_default() -> None:
    assert Method().settings == {"quadrature": "paper", "steps": 19}


@settings(deadline=None)
@given(st.sampled_from(FIXED_RULES), steps)
def test_nodes_and_weights(name: str, count: int) -> None:
    nodes, weights = fixed_rule(name, count)
    assert nodes.shape == weights.shape == (count + 1,)
    assert (np.diff(nodes) > 0).all() and nodes[0] >= 0 and nodes[-1] <= 1 and (weights > 0).all()
    assert weights.sum() == pytest.approx((count + 1) / count if name == "paper" else 1)


@settings(deadline=None)
@given(steps, st.lists(st.floats(-1, 1), min_size=1, max_size=82))
def test_gauss_legendre_is_exact_for_polynomials(count: int, coefficients: list[float]) -> None:
    """S + 1 points integrate a gradient of degree 2S + 1."""
    gradient = np.polynomial.Polynomial(coefficients[: 2 * count + 2])
    nodes, weights = fixed_rule("gauss-legendre", count)
    exact = gradient.integ()(1) - gradient.integ()(0)
    assert weights @ gradient(nodes) == pytest.approx(exact, abs=1e-12)


def test_gauss_legendre_is_exact_to_that_degree_and_no_further() -> None:
    nodes, weights = fixed_rule("gauss-legendre", 2)
    assert abs(weights @ nodes**5 - 1 / 6) < 1e-15 < 1e-4 < abs(weights @ nodes**6 - 1 / 7)


@settings(deadline=None)
@given(steps)
def test_the_trapezoid_is_exact_for_linear_gradients_alone(count: int) -> None:
    nodes, weights = fixed_rule("trapezoid", count)
    assert weights @ (2 * nodes - 3) == pytest.approx(-2)
    assert weights @ nodes**2 == pytest.approx(1 / 3 + 1 / (6 * count**2))


CURVES = [
    [polynomial(0.1, 0.2, 0.3, -0.1), polynomial(0.5), polynomial(0, 0, 1)],
    [step(0.3, 4), polynomial(0.9, -0.8), step(0.7, 9, -0.5)],
]


@pytest.mark.parametrize("name", FIXED_RULES)
@pytest.mark.parametrize("count", [1, 5, 19])
def test_every_layer_and_position_gets_its_own_sum(name: str, count: int) -> None:
    model = Analytic(CURVES)
    integral = integrate(model, name, count)
    nodes, weights = fixed_rule(name, count)
    expected = [[weights @ slope(nodes) for _, slope in layer] for layer in CURVES]
    assert np.allclose(model.attributed(integral.gradients), expected, rtol=1e-13, atol=1e-15)
    assert not integral.gradients[..., 1:].any()
    ends = np.array([[curve(np.array([0.0, 1.0])) for curve, _ in layer] for layer in CURVES])
    assert np.allclose(integral.start, ends[..., 0]) and np.allclose(integral.end, ends[..., 1])
    error = integral.completeness_error(model.clean, model)  # type: ignore[arg-type]
    assert np.allclose(error, expected - model.true_change(), atol=1e-15)
    assert (integral.points == count + 1).all()


@pytest.mark.parametrize("name", FIXED_RULES)
def test_passes_hold_no_more_tokens_than_allowed_and_shared_ones_are_not_repeated(name: str) -> None:
    whole = integrate(Analytic(CURVES), name, 7)
    for chunk in (1, 2, 3, 7, 20, 1000):
        model = Analytic(CURVES)
        parts = integrate(model, name, 7, chunk)
        assert np.allclose(parts.gradients, whole.gradients, rtol=1e-14, atol=0)
        assert np.array_equal(parts.start, whole.start)
        assert model.widest <= max(chunk, 3)  # never less than one row of all positions
        # alpha = 1 comes from the shared pass; a rule without alpha = 0 has it evaluated for the completeness error
        assert model.evaluated == 2 * 3 * (9 if name == "gauss-legendre" else 7)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "19", None])
@pytest.mark.parametrize("name", FIXED_RULES)
def test_a_bad_number_of_steps(name: str, bad: object) -> None:
    for make in (lambda: fixed_rule(name, bad), lambda: Method(bad, name)):  # type: ignore[arg-type, return-value]
        with pytest.raises(
            OptionError, match=r"^steps must be a whole number of at least 1, got .*paper uses 19"
        ):
            make()


@pytest.mark.parametrize("name", ["simpson", "", "Paper", "gauss_legendre"])
def test_an_unknown_rule(name: str) -> None:
    with pytest.raises(
        OptionError, match=f"^unknown quadrature '{name}'; choose one of {', '.join(QUADRATURES)}$"
    ):
        Method(quadrature=name)


@pytest.mark.parametrize("name", ["simpson", "adaptive"])
def test_an_unknown_fixed_rule(name: str) -> None:
    with pytest.raises(
        OptionError, match=f"^unknown fixed rule '{name}'; choose one of {', '.join(FIXED_RULES)}$"
    ):
        fixed_rule(name, 19)
