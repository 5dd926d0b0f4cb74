"""Causal tracing, as ROME locates (section 2.2, appendix C; Meng et al. 2022): which layers' clean states bring the
answer to a noised fact back.

``locate.locate`` finds layers, ``locate.trace`` measures single examples, ``reference`` is the slow oracle.
"""
