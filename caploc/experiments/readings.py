"""The readings of eq. (7), eq. (8) and appendix C that the paper leaves open, as one value that a study is run under.

Light on purpose, as options are checked before torch is loaded; the choices themselves are implemented in
``caploc.neurons`` (dispersion, scope, deviation), ``caploc.attribution`` (quadrature, path, value), ``caploc.datasets``
(gsm8k-form) and ``caploc.locators.causal_tracing`` (restored), and questioned by the ambiguities of
``caploc/papers/capability_localization`` that name a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from caploc.attribution.method import QUADRATURES
from caploc.errors import OptionError

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dispersion": ("std", "variance"),
        "scope": ("model", "layer"),
        "deviation": ("absolute", "positive"),
        "quadrature": QUADRATURES,
        "path": ("layer", "neuron"),
        "value": ("post", "pre"),
        "gsm8k-form": ("free", "choice"),
        "restored": ("hidden", "mlp", "attention"),
    }
)
"""Setting -> what it may be; the default first."""


@dataclass(frozen=True)
class Reading:
    """One way to read the paper; the defaults are those of the audit.

    ==============  ==========================================================================================
    ``dispersion``  eq. (8) multiplies sigma by the scores' standard deviation (``std``) or ``variance``
    ``scope``       mean and dispersion of eq. (8) over all layers (``model``) or one ``layer`` at a time
    ``deviation``   eq. (8) takes both tails (``absolute``) or only scores above the mean (``positive``)
    ``quadrature``  how the integral of eq. (7) is summed (``caploc.attribution.method``)
    ``path``        eq. (7) scales all neurons of a ``layer`` together or one ``neuron`` at a time
    ``value``       a neuron's value is what enters the down projection (``post``) or the nonlinearity (``pre``)
    ``gsm8k_form``  GSM8K's answers are worked solutions (``free``) or one letter of four (``choice``)
    ``restored``    causal tracing puts back a layer's ``hidden`` state, or the output of its ``mlp`` or ``attention``
    ==============  ==========================================================================================

    Raises:
        OptionError: a value that its setting does not have; one line that names those it has.
    """

    dispersion: str = "std"
    scope: str = "model"
    deviation: str = "absolute"
    quadrature: str = "paper"
    path: str = "layer"
    value: str = "post"
    gsm8k_form: str = "free"
    restored: str = "hidden"

    def __post_init__(self) -> None:
        for setting, value in self.settings.items():
            if value not in CHOICES[setting]:
                raise OptionError(
                    f"{setting} {value!r} is unknown; choose one of {', '.join(CHOICES[setting])}"
                )

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Reading:
        """The reading that departs from the defaults in ``settings``, named as in ambiguities.toml.

        Raises:
            OptionError: an unknown setting or value; one line that names the known ones.
        """
        for setting in settings:
            if setting not in CHOICES:
                raise OptionError(
                    f"the paper leaves no setting {setting!r} open; choose one of {', '.join(CHOICES)}"
                )
        return cls(**{setting.replace("-", "_"): value for setting, value in settings.items()})

    @property
    def settings(self) -> dict[str, str]:
        """Every setting and its value, named as in ambiguities.toml."""
        return {field.name.replace("_", "-"): getattr(self, field.name) for field in fields(self)}

    def departures(self) -> tuple[str, ...]:
        """What differs from the default reading, such as ``("quadrature=adaptive",)``; empty for the default."""
        return tuple(
            f"{setting}={value}" for setting, value in self.settings.items() if value != CHOICES[setting][0]
        )
