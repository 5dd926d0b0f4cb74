"""Eq. (7): how much each neuron contributes to a model's answers."""
