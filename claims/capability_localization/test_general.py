"""The summary's key results that no section of the paper measures.

Each test is one claim; its statement, margins and rule stand in ``caploc/papers/capability_localization/general.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

rivals = experiments.rivals


@claim("general-cnl-outperforms", rivals.outperforms, sigma=6)
def test_cnl_outperforms_earlier_methods() -> None:
    """Summary, key results: "CNL outperforms existing parameter localization methods."."""
