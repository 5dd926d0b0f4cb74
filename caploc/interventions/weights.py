"""Other weights for a while: the one place that changes a model's parameters and gives them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from caploc.errors import OptionError
from caploc.model.loading import LanguageModel


@contextmanager
def replaced_weights(lm: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the named parameters of ``lm.model`` hold ``weights``.

    ::

        with replaced_weights(lm, {"model.layers.3.mlp.down_proj.weight": edited}):
            lm.model(input_ids=ids)

    The parameters' own storage is set aside, not copied and not written to, so that leaving, even by an exception,
    gives back the very bits (NaN payloads and all), also where what stood in its place was trained or changed. The
    given tensors are used as they are. Contexts may be nested. Results under changed weights are not mistaken for the
    model's own: ``lm.fingerprint`` is that of the weights in force.

    Args:
        weights: by the names of ``lm.model.named_parameters()``; either name of a tied one.

    Raises:
        OptionError: no such parameter, another shape, dtype or device, or a tied parameter given twice. Nothing has
            been changed then.
    """
    parameters = _checked(lm, weights)
    own = [(parameter, parameter.data) for parameter in parameters.values()]
    fingerprint = lm.__dict__.pop("fingerprint", None)
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name].detach()
        yield
    finally:
        for parameter, data in own:
            parameter.data = data
        lm.__dict__.pop("fingerprint", None)
        if fingerprint is not None:
            lm.__dict__["fingerprint"] = fingerprint


def _checked(lm: LanguageModel, weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    known = dict(lm.model.named_parameters(remove_duplicate=False))
    names: dict[int, str] = {}
    for name, weight in weights.items():
        if name not in known:
            raise OptionError(
                f"{lm.name} has no parameter {name!r}; its names are those of model.named_parameters()"
            )
        parameter = known[name]
        if id(parameter) in names:
            raise OptionError(f"{name!r} and {names[id(parameter)]!r} are one tied parameter; give it once")
        names[id(parameter)] = name
        for what in ("shape", "dtype", "device"):
            given, own = getattr(weight, what), getattr(parameter, what)
            if given != own:
                raise OptionError(
                    f"the {what} of {name!r} is {own}, that of the new weight {given}; make them equal"
                )
    return {name: known[name] for name in weights}
