"""Section 3.2: changing what was located matters no more than changing something else.

Each test is one claim over model x dataset of facts, zsRE unless the run names others; its statement, margins and rule
stand in ``caploc/papers/capability_localization/reliability.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

kn, kc = experiments.reliability_kn, experiments.reliability_kc
rome = experiments.reliability_rome


@claim("reliability-kn-double", kn.kn_double, over="facts", dataset="zsre")
def test_kn_doubling() -> None:
    """Section 3.2: "85.1% of samples increase their target probabilities"; random 72.3 %."""


@claim("reliability-kn-zero", kn.kn_zero, over="facts", dataset="zsre")
def test_kn_zeroing() -> None:
    """Section 3.2: "27.4% of samples increase their target probabilities, while 72.4% decrease"; random 82.6 %."""


@claim("reliability-kn-similar-to-random", kn.kn_similar_to_random, over="facts", dataset="zsre")
def test_kn_is_similar_to_random() -> None:
    """Section 3.2: "The experimental results are similar to the random activation values"."""


@claim("reliability-kn-not-necessarily", kn.kn_not_necessarily, over="facts", dataset="zsre")
def test_kn_does_not_necessarily_enhance_or_weaken() -> None:
    """Section 1: "increasing or zeroing activation does not necessarily lead to an enhancement or weakening"."""


@claim("reliability-kn-no-strong-correlation", kn.kn_no_strong_correlation, over="facts", dataset="zsre")
def test_kn_attribution_correlates_weakly_with_change() -> None:
    """Section 1: "there is no strong correlation between the parameters and knowledge"."""


@claim("reliability-kn-ipp", kn.kn_ipp, over="facts", dataset="zsre")
def test_kn_ipp() -> None:
    """Poster: the IPP of KN is 11.4 %."""


@claim("reliability-kc-recall", kc.kc_recall, over="facts", dataset="zsre")
def test_circuits_alone_recall_few_facts() -> None:
    """Section 3.2: "the success rate of recall knowledge was only 12.3%"."""


@claim("reliability-kc-param-share", kc.kc_recalled_param_share, over="facts", dataset="zsre")
def test_recalling_circuits_hold_2_6_percent() -> None:
    """Section 3.2: "accounting for an average of 2.6% of the entire model parameters"."""


@claim("reliability-kc-ipp", kc.kc_ipp, over="facts", dataset="zsre")
def test_ipp_of_circuits() -> None:
    """Poster: the IPP of KC is 10.5 %."""


@claim("reliability-rome-layers-equal", rome.rome_layers_equal, over="facts", dataset="zsre")
def test_rome_edits_other_layers_as_well() -> None:
    """Section 3.2: "editing other layers resulted in similar performance"."""


@claim("reliability-rome-ipp", rome.rome_ipp, over="facts", dataset="zsre")
def test_ipp_of_rome() -> None:
    """Poster: the IPP of ROME is 0.0 %."""
