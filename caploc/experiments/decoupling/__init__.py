"""Decoupling (section 4): the same sums under two tasks. Does what KN locates go with the sum, or with the task?

Each claim is a function of a ``Study``, a ``Cell`` and the claim's id that returns a ``Finding``.
"""

from __future__ import annotations

from caploc.experiments.decoupling.commonality import commonality
from caploc.experiments.decoupling.rates import individual_low, rate_of_a_task, rate_of_two_tasks

__all__ = ["commonality", "individual_low", "rate_of_a_task", "rate_of_two_tasks"]
