"""Check a locator on models whose localization is known, as scikit-learn's ``check_estimator`` checks an estimator.

::

    print(caploc.check_locator(my_locate))                    # a table, and why each mark was missed
    caploc.check_locator(my_locate, strict=True)              # raises LocatorCheckError instead

    @parametrize_with_locator_checks([my_locate])             # pytest: a test a check
    def test_my_locator(locate, check):
        check(locate)

    $ python -m caploc.check mypackage.module:my_locate
"""

from __future__ import annotations

from caploc.check.contract import DUTIES
from caploc.check.marks import MARKS, MEASURES, Mark
from caploc.check.parametrize import parametrize_with_locator_checks
from caploc.check.results import Check, Judged, LocatorCheckError, LocatorReport
from caploc.check.running import check_locator

__all__ = [
    "DUTIES",
    "MARKS",
    "MEASURES",
    "Check",
    "Judged",
    "LocatorCheckError",
    "LocatorReport",
    "Mark",
    "check_locator",
    "parametrize_with_locator_checks",
]
