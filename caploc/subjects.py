"""Where the subject of a fact stands in its prompt: as characters, and as the tokens a model reads."""

from __future__ import annotations

from collections.abc import Iterable

from caploc.errors import ExampleError, ModelError
from caploc.examples import Example, Exclusion, TokenizingModel, tokenize


def subject_characters(example: Example) -> range:
    """The characters of `example.prompt` that are its subject.

    A subject that occurs several times is taken where it stands last: a sentence put in front of a prompt (ROME's
    prefixes, COUNTERFACT's paraphrases) does not move it. An occurrence that is a word of its own goes before one
    inside of another word. (ROME itself takes the first; the facts of COUNTERFACT, zsRE and known_1000 that were
    looked at name their subject once.)

    Raises `ExampleError` for an example without subject, or whose prompt does not contain it.
    """
    prompt, subject = example.prompt, example.subject
    if subject is None or not subject.strip():
        raise ExampleError(
            f"example {example.id!r} names no subject; give it one, Example(..., subject='Rome'), or take a dataset "
            "of facts"
        )
    places = [start for start in range(len(prompt)) if prompt.startswith(subject, start)]
    if not places:
        raise ExampleError(
            f"example {example.id!r}: its subject {subject!r} is not in its prompt {prompt!r}; write it as it stands "
            "there, letter for letter, or leave the example out"
        )
    words = [start for start in places if _is_word(prompt, start, start + len(subject))]
    start = (words or places)[-1]
    return range(start, start + len(subject))


def subject_tokens(lm: TokenizingModel, example: Example) -> range:
    """The tokens of `caploc.tokenize(lm, example).input_ids` that are its subject; at least one.

    A token belongs to the subject if it holds any of its characters: one that straddles the border is the
    subject's (a leading space, or a bracket merged with the name). So `span[-1]` is the last subject token.

    Raises `ExampleError` as `subject_characters` and `caploc.tokenize` do; `ModelError` for a tokenizer that does
    not tell which characters a token comes from.
    """
    characters = subject_characters(example)
    if not lm.tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {lm.name} does not tell which characters a token comes from, so no subject can be "
            "found; put the model's tokenizer.json into its folder"
        )
    prompt_ids = tokenize(lm, example, answer_tokens=1).prompt_ids
    encoded = lm.tokenizer(
        example.prompt, add_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    inside = [
        index
        for index, (start, stop) in enumerate(encoded["offset_mapping"][: len(prompt_ids)])
        if start < characters.stop and stop > characters.start
    ]
    if not inside:
        raise ExampleError(
            f"example {example.id!r}: the tokenizer of {lm.name} makes no token of its subject {example.subject!r}; "
            "leave the example out"
        )
    return range(inside[0], inside[-1] + 1)


def with_subject(lm: TokenizingModel, examples: Iterable[Example]) -> tuple[list[Example], list[Exclusion]]:
    """The `examples` whose subject is found, and the others with the reason; a `ModelError` is raised at once."""
    found: list[Example] = []
    excluded: list[Exclusion] = []
    for example in examples:
        try:
            subject_tokens(lm, example)
        except ExampleError as error:
            excluded.append(Exclusion(example.id, str(error)))
        else:
            found.append(example)
    return found, excluded


def _is_word(text: str, start: int, stop: int) -> bool:
    before, after = text[start - 1 : start], text[stop : stop + 1]
    return not (before.isalnum() or after.isalnum())
