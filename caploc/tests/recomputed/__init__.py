"""The calling-card numbers computed a second time, with torch, transformers and numpy alone.

Nothing in here imports what it checks: data are read from their files, facts and samples chosen, and each method
written down anew from the paper and from the rule that the audit states, with forward hooks on the Hugging Face model
and one pass for each question. ``test_recomputed.py`` holds the audit to it; ``python -m caploc.tests.recomputed`` does
so for a whole ledger.
"""
