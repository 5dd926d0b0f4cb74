"""Which examples: two disjoint sides of one file, and random subsets, both decided by hashes of the content.

Nothing here depends on the order of a file, on the process or on Python's own `hash`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from caploc.examples import Example

LOCATING_SHARE = 0.7


def on_locating_side(key: str) -> bool:
    """Whether records with this key are located with (about 70 % of keys) rather than evaluated on.

    The dataset's name does not enter: a subject or question that two datasets share falls on one side.
    """
    return int.from_bytes(digest(key)[:8]) < LOCATING_SHARE * 2**64


def subset(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """A random choice of at most `limit` of the examples, without replacement, in random order.

    A smaller limit gives a prefix of what a larger one gives. Examples of one group follow each other, so
    that no group but the last is torn; without a group, prompt and answer decide an example's place.
    """

    def rank(example: Example) -> bytes:
        own = (
            ("group", example.group)
            if example.group is not None
            else ("text", example.prompt, example.answer)
        )
        return digest(str(seed), *own)

    return sorted(examples, key=rank)[:limit]


def digest(*parts: str) -> bytes:
    """A hash of some texts and of where one ends and the next begins."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode()
        digest.update(len(content).to_bytes(8))  # ("ab", "c") is not ("a", "bc")
        digest.update(content)
    return digest.digest()
