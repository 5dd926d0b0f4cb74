"""Which properties go with membership in a set: logistic regression that stays finite where sets are small.

A set of a dozen among thousands is often separated perfectly by one property, where the likelihood has no maximum.
Firth's penalty (1993), which takes out the first-order bias of the estimates, gives a finite one in every case (Heinze
and Schemper 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from caploc.statistics.checks import StatisticsError

STEPS, SLOPE, FLAT = 1000, 1e-4, 1e-2
"""Of the penalized log likelihood: the slope at which the search ends, and the one above which its end is no maximum;
a single member adds up to 1 to the slope."""


@dataclass(frozen=True, eq=False)
class Logistic:
    """``probability [n]``: fitted, of membership; ``coefficients [p]``: log odds per unit of each property;
    ``explained``: the share of the deviance that the properties explain (McFadden 1974), 0 where they are no use."""

    probability: Float[np.ndarray, " n"]
    coefficients: Float[np.ndarray, " p"]
    explained: float

    @property
    def overlap(self) -> float:
        """Of two sets that share nothing but what the properties say, each unit a member of both independently with its
        probability: members in common over members."""
        return float((self.probability**2).sum() / self.probability.sum())


def firth(properties: Float[np.ndarray, "n p"], members: Bool[np.ndarray, " n"]) -> Logistic:
    """Firth's logistic regression of membership on properties and a constant.

    The likelihood with half of the log determinant of the information added is maximized by BFGS, its gradient being
    Firth's score ``X'(y - p + h (1/2 - p))``, h the leverages.

    Raises:
        StatisticsError: all or none are members, a property is not finite, or no maximum is found.
    """
    n, count = len(members), int(members.sum())
    if not 0 < count < n:
        raise StatisticsError(
            f"{count} of {n} are members: a regression needs some that are and some that are not"
        )
    if properties.shape[0] != n or not np.isfinite(properties).all():
        raise StatisticsError("properties must be finite, a row for each that is or is not a member")
    design = np.column_stack([np.ones(n), properties])
    start = np.zeros(design.shape[1])
    start[0] = logit(count / n)
    found = minimize(
        _penalized,
        start,
        (design, members),
        jac=True,
        method="BFGS",
        options={"gtol": SLOPE, "maxiter": STEPS},
    )
    slope = float(np.abs(found.jac).max())
    if not slope <= FLAT:
        raise StatisticsError(
            f"no maximum found: the slope is still {slope:.2g} after {found.nit} steps; are two properties the same?"
        )
    odds = design @ found.x
    null = count * log_expit(start[0]) + (n - count) * log_expit(-start[0])
    explained = 1 - _log_likelihood(odds, members) / null
    return Logistic(expit(odds), found.x[1:], float(max(0.0, explained)))


def _penalized(beta: np.ndarray, design: np.ndarray, members: np.ndarray) -> tuple[float, np.ndarray]:
    """What is minimized, and its gradient."""
    odds = design @ beta
    chance = expit(odds)
    weighted = design * (chance * (1 - chance))[:, None]
    information = design.T @ weighted
    sign, log_determinant = np.linalg.slogdet(information)
    if sign <= 0:  # as far out as this, every unit is certain
        return np.inf, np.zeros(len(beta))
    leverage = np.einsum("np,np->n", weighted, np.linalg.lstsq(information, design.T, rcond=None)[0].T)
    score = design.T @ (members - chance + leverage * (0.5 - chance))
    return -(_log_likelihood(odds, members) + 0.5 * log_determinant), -score


def _log_likelihood(odds: np.ndarray, members: np.ndarray) -> float:
    return float(log_expit(np.where(members, odds, -odds)).sum())
