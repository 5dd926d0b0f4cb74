"""Errors a user can act on: one line that names the culprit and the remedy."""

from __future__ import annotations


class CaplocError(ValueError):
    """Something in the input, an option or the surroundings is wrong; the message names it and the remedy."""


class UnknownNameError(CaplocError):
    """A dataset, model, locator or rule of this name does not exist."""


class OptionError(CaplocError):
    """An option has a value that makes no sense."""


class ModelError(CaplocError):
    """A model cannot be loaded, or cannot be trusted to give right numbers."""


class UnavailableModelError(ModelError):
    """A model cannot be had here: gated, absent from the hub, or no network. Nothing is wrong with it."""


class DatasetError(CaplocError):
    """A dataset, or a record of it, cannot be used."""


class UnavailableDatasetError(DatasetError):
    """A dataset cannot be had here: not under the data root, gated, absent from the hub, or no network."""


class ExampleError(CaplocError):
    """A prompt and answer cannot be tokenized as they must be."""


class UnfitError(ExampleError):
    """An example that this model cannot be given: runs leave it out and count it, under ``why``."""

    why = "unfit for the model"


class TooLongError(UnfitError):
    """Prompt and answer exceed the model's context."""

    why = "longer than the model's context"


class UnspelledError(UnfitError):
    """The tokens of prompt and answer are not those of their text."""

    why = "not spelled by the tokenizer"


class SubjectError(UnfitError):
    """An example's subject is not in its prompt, or has no tokens of its own there."""

    why = "no tokens of the subject"


class UnscorableError(UnfitError):
    """An answer that reads as another once the model's tokenizer has written it, so that nothing scores right."""

    why = "not scored right even by its own tokens"


def against_nan(dtype: object) -> str:
    """What may help where a model in this torch dtype gives numbers that are not finite."""
    wide = str(dtype) in ("torch.float32", "torch.float64")
    return "check the model's weights" if wide else "try dtype float32"
