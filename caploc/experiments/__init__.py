"""Experiments: locate, intervene, measure, compare; each returns a Finding. None of them knows pytest."""

FEWEST_SAMPLES = 16
"""Below this, halves and convergence curves mean nothing."""
FEWEST_DRAWS = 20
"""Below this, the ends of a 95 % interval over draws are its extremes."""
