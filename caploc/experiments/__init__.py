"""Experiments: locate, intervene, measure, compare; each returns a Finding. None of them knows pytest."""
