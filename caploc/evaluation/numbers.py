"""The answer that a worked solution ends with: the number after ``####``, or after "The answer is"."""

from __future__ import annotations

import re
from fractions import Fraction

MARKS = ("####", "[Tt]he (?:final )?answer is:?")
_MARKED = re.compile(f"(?:{'|'.join(MARKS)})" + r"[ \t]*(\S[^\n]*)")
_NUMBER = re.compile(r"(-?)\$?(-?)(\d[\d,]*(?:\.\d+)?|\.\d+)(?:/(\d+))?(%?)(?: [A-Za-z ]+)?")


def final_answer(text: str) -> Fraction | str | None:
    """What ``text`` gives as its answer: a number, or, after a mark, an expression that is none, as text.

    The first mark counts. Without one the whole text counts, if it is a number; otherwise there is no answer (None).
    ``1,234``, ``$ 1234``, ``1234.``, ``1234.00`` and ``1234 dollars`` are one number; ``1/2`` and ``0.5`` are one.
    """
    marked = _MARKED.search(text)
    bare = _bare(text if marked is None else marked[1])
    number = _number(bare)
    return bare if number is None and marked is not None else number


def _number(bare: str) -> Fraction | None:
    found = _NUMBER.fullmatch(bare)
    if found is None or (found[4] is not None and int(found[4]) == 0):
        return None
    size = Fraction(found[3].replace(",", "")) / int(found[4] or 1)
    return -size if found[1] or found[2] else size


def _bare(text: str) -> str:
    return re.sub(r"(?<=\$) +| +(?=%)", "", text.strip().rstrip(".").rstrip()).removesuffix("$")
