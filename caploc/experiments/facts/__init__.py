"""What studies of single facts share (sections 3 and 4): which facts in which wordings, whether the model knows them,
what is located for each, how located sets agree, and how it is all told in a finding.

``facts_of(study, dataset)`` gives a `FactSet`; a locator's results for its prompts become `LocatedSets`, whatever the
places are (neurons, layers, edges); `caploc.statistics` compares them within and across facts.
"""

from __future__ import annotations

from caploc.experiments.facts.fact_set import FEWEST_FACTS, FactSet, facts_of
from caploc.experiments.facts.sets import LocatedSets
from caploc.experiments.facts.wordings import Fact

__all__ = ["FEWEST_FACTS", "Fact", "FactSet", "LocatedSets", "facts_of"]
