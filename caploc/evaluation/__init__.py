"""How well a model does on a dataset, as it is and with sets of neurons erased.

prepared = prepare(lm, "gsm8k", examples)           # tokenized and checked, once
evaluate(lm, prepared).score                        # [items], 0 to 1
evaluate(lm, prepared, sets).score                  # [sets, items], each set's neurons zero at every position
text_loss(lm, texts, sets)                          # [sets, texts], nats a token of general text
"""

from __future__ import annotations

from caploc.evaluation.evaluator import Outcomes, evaluate, text_loss
from caploc.evaluation.preparing import SCORINGS, Item, Prepared, Scoring, prepare

__all__ = ["SCORINGS", "Item", "Outcomes", "Prepared", "Scoring", "evaluate", "prepare", "text_loss"]
