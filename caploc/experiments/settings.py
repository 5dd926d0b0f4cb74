"""What a study is asked to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from caploc.attribution.method import Method
from caploc.errors import OptionError
from caploc.experiments import FEWEST_DRAWS, FEWEST_SAMPLES
from caploc.experiments.readings import Reading
from caploc.neurons import Deviation, Dispersion, Scope, Threshold
from caploc.store import Store

CPU_SAMPLES = 80
PAPER_SIGMA = 6.0


@dataclass(frozen=True)
class StudySettings:
    """What a study is asked to do.

    ``samples`` per dataset: None for the paper's own number on a GPU (section 5.3) and ``CPU_SAMPLES`` on a CPU.
    ``data_root`` None: the embedded data for embedded models, else the hub. ``files`` maps a dataset of the user's own
    to its file. ``draws`` counts random splits. ``margins`` are the audited paper's (`caploc.papers.Paper.margins`).

    ``reading`` says how the paper is read; its quadrature, path and value replace those of ``method`` where they depart
    from the default. Path "neuron" costs a run for every neuron, so it locates with ``neuron_path_samples`` at most.
    """

    samples: int | None = None
    draws: int = 100
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    data_root: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    sigmas: Sequence[float] = (PAPER_SIGMA,)
    datasets: Sequence[str] = ("gsm8k", "meta_math", "code25k", "emotion", "imdb")
    method: Method = field(default_factory=Method)
    reading: Reading = field(default_factory=Reading)
    neuron_path_samples: int | None = 24
    margins: Mapping[str, float] = field(default_factory=dict)
    store: Store = field(default_factory=Store)

    def margin(self, name: str) -> float:
        """The paper's margin of this name, such as ``least-loss``: the smallest loss of score that counts."""
        if name not in self.margins:
            raise OptionError(
                f"the study has no margin {name!r}; give those of the audited paper: Paper.margins"
            )
        return self.margins[name]

    def has_figures(self, sigma: float) -> bool:
        """Whether findings at ``sigma`` carry plots: at the paper's sigma, or else at the first."""
        return sigma == (PAPER_SIGMA if PAPER_SIGMA in self.sigmas else self.sigmas[0])

    @property
    def attribution(self) -> Method:
        """``method`` under ``reading``."""
        default, asked = Reading().settings, self.reading.settings
        departing = {
            name: asked[name] for name in ("quadrature", "path", "value") if asked[name] != default[name]
        }
        return dataclasses.replace(self.method, **cast(dict[str, Any], departing))

    def threshold(self, sigma: float) -> Threshold:
        """Eq. (8) at ``sigma`` under ``reading``."""
        reading = self.reading
        return Threshold(
            sigma,
            cast(Dispersion, reading.dispersion),
            cast(Scope, reading.scope),
            cast(Deviation, reading.deviation),
        )

    def __post_init__(self) -> None:
        if self.draws < FEWEST_DRAWS:
            raise OptionError(f"draws must be at least {FEWEST_DRAWS} for a 95 % interval, got {self.draws}")
        for name, samples in (("samples", self.samples), ("neuron_path_samples", self.neuron_path_samples)):
            if samples is not None and samples < FEWEST_SAMPLES:
                raise OptionError(
                    f"{name} must be at least {FEWEST_SAMPLES}, or halves and curves mean nothing; got {samples}"
                )
