"""The summary's key results that no section of the paper measures.

Each test is one claim; its statement, margins and rule stand in ``caploc/papers/capability_localization/general.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("general-cnl-outperforms", sigma=6)
def test_cnl_outperforms_earlier_methods(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Summary, key results: "CNL outperforms existing parameter localization methods."."""
    from caploc.experiments import rivals

    audit.check(rivals.outperforms(study, cell.cell, audit.claim))
