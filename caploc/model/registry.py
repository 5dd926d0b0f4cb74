"""The models that have a name: where they are, at which commit, and what to know of one before it is loaded.

Every hub entry is pinned to a commit that holds its weights as safetensors; ``caploc/tests/model/test_registry.py``
asks the hub about each where there is a network. A further model is one more entry in ``_TABLE``; its
family must be in ``caploc/architectures.py``. Nothing here imports torch, so that a run is planned before a
model is touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from caploc.costs import Shape, least_bytes
from caploc.errors import ModelError, UnknownNameError

_WITHOUT_GATE = frozenset({"gptj", "gpt_neox", "phi", "gpt2"})
_IN_STEPS = frozenset({"gptj", "gemma2"})
"""Families that have no gate in their MLP; that attend in steps, scores in float32."""
_EMBEDDED_ROOT = Path(__file__).resolve().parents[2] / "fixtures" / "models"


@dataclass(frozen=True)
class RegisteredModel:
    """One named model.

    ============  ======================================================================================
    ``name``      what ``load_model`` and ``--model`` accept
    ``hub``       the hub repository; for an embedded model its folder under ``fixtures/models``
    ``revision``  the repository's commit, 40 hexadecimal digits; empty for an embedded model
    ``params_b``  parameters in billions, tied ones counted once
    ``shape``     what costs are reckoned from; None for an embedded model, which needs no GPU
    ``gated``     the hub asks for a login and an accepted licence
    ``family``    ``config.model_type``
    ``layers``    decoder layers
    ``neurons``   FFN intermediate units per layer
    ``display``   the name in reports: the paper's where it has one
    ``paper``     one of the paper's three models
    ``embedded``  comes with the repository, nothing is downloaded
    ``early``     the registry's name of an early checkpoint of the same run, which has room to improve; may be empty
    ============  ======================================================================================
    """

    name: str
    hub: str
    revision: str
    params_b: float
    shape: Shape | None
    gated: bool
    family: str
    layers: int
    neurons: int
    display: str
    paper: bool
    embedded: bool = False
    early: str = ""

    def min_gb(self, need: str, item: int = 2) -> int:
        """GPU memory for one of `caploc.costs.NEEDS` with ``item`` bytes a number, in GB (10^9 bytes), rounded up."""
        return math.ceil(least_bytes(self.shape, item, need) / 1e9) if self.shape else 0


def _hub(
    name: str,
    display: str,
    source: str,
    family: str,
    *,
    layers: int,
    neurons: int,
    params_b: float,
    head: tuple[int, int],
    heads: int,
    gated: bool = False,
    paper: bool = False,
) -> RegisteredModel:
    """``head`` is [vocabulary, width]. ``gated`` is about access to the repository, not about the MLP."""
    hub, _, revision = source.partition("@")
    vocabulary, width = head
    shape = Shape(
        layers,
        width,
        neurons,
        vocabulary,
        1e9 * params_b,
        heads,
        key_heads=heads,  # as CUDA's kernels under a mask have those of a group repeated
        head_size=width // heads,
        gated=family not in _WITHOUT_GATE,
        in_steps=family in _IN_STEPS,
    )
    return RegisteredModel(
        name, hub, revision, params_b, shape, gated, family, layers, neurons, display, paper
    )


def _embedded(name: str, family: str, neurons: int, params_b: float, early: str = "") -> RegisteredModel:
    return RegisteredModel(
        name, name, "", params_b, None, False, family, 8, neurons, name, False, embedded=True, early=early
    )


# fmt: off
_TABLE = (
    _embedded("tiny-llama", "llama", 1024, 0.00270, early="tiny-llama-early"),
    _embedded("tiny-gptj", "gptj", 1152, 0.00237, early="tiny-gptj-early"),
    _embedded("tiny-llama-early", "llama", 1024, 0.00270),
    _embedded("tiny-gptj-early", "gptj", 1152, 0.00237),

    _hub("llama2-7b", "Llama2-7B", "meta-llama/Llama-2-7b-hf@01c7f73d771dfac7d292323805ebc428287df4f9",
         "llama", layers=32, neurons=11008, params_b=6.738, head=(32000, 4096), heads=32, gated=True, paper=True),
    _hub("llama2-13b", "Llama2-13B", "meta-llama/Llama-2-13b-hf@5c31dfb671ce7cfe2d7bb7c04375e44c55e815b1",
         "llama", layers=40, neurons=13824, params_b=13.016, head=(32000, 5120), heads=40, gated=True, paper=True),
    # A commit beside the main branch, as main (47e169305d2e8376be1d31e765533382721b2cc1) has no safetensors.
    # Should the hub drop it, load_model says so; a folder with converted weights then does as well.
    _hub("gptj-6b", "GPTJ-6B", "EleutherAI/gpt-j-6b@f3f428825b6fc4c087af475ea729ac652edeee33",
         "gptj", layers=28, neurons=16384, params_b=6.051, head=(50400, 4096), heads=16, paper=True),

    _hub("llama3.1-8b", "Llama3.1-8B", "meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b",
         "llama", layers=32, neurons=14336, params_b=8.030, head=(128256, 4096), heads=32, gated=True),
    _hub("qwen3-8b", "Qwen3-8B", "Qwen/Qwen3-8B@b968826d9c46dd6066d109eabc6255188de91218",
         "qwen3", layers=36, neurons=12288, params_b=8.191, head=(151936, 4096), heads=32),
    _hub("qwen2.5-7b", "Qwen2.5-7B", "Qwen/Qwen2.5-7B@d149729398750b98c0af14eb82c78cfe92750796",
         "qwen2", layers=28, neurons=18944, params_b=7.616, head=(152064, 3584), heads=28),
    # Gated by its owner in April 2024; a login does no harm should that have been lifted.
    _hub("mistral-7b", "Mistral-7B", "mistralai/Mistral-7B-v0.1@27d67f1b5f57dc0953326b2601d68371d40ea8da",
         "mistral", layers=32, neurons=14336, params_b=7.242, head=(32000, 4096), heads=32, gated=True),
    _hub("olmo2-7b", "OLMo2-7B", "allenai/OLMo-2-1124-7B@7df9a82518afdecae4e8c026b27adccc8c1f0032",
         "olmo2", layers=32, neurons=11008, params_b=7.299, head=(100352, 4096), heads=32),
    # The older main, f271943e880e60c0c715fd10e4dc74ec4e31eb44, has no safetensors.
    _hub("pythia-6.9b", "Pythia-6.9B", "EleutherAI/pythia-6.9b@c0e3eee36dc47af0c49f361c74cfe459c09f7f23",
         "gpt_neox", layers=32, neurons=16384, params_b=6.857, head=(50432, 4096), heads=32),
    _hub("gemma2-2b", "Gemma2-2B", "google/gemma-2-2b@c5ebcd40d208330abc697524c919956e692655cf",
         "gemma2", layers=26, neurons=9216, params_b=2.614, head=(256000, 2304), heads=8, gated=True),
    _hub("gemma2-9b", "Gemma2-9B", "google/gemma-2-9b@33c193028431c2fde6c6e51f29e6f17b60cbfac6",
         "gemma2", layers=42, neurons=14336, params_b=9.242, head=(256000, 3584), heads=16, gated=True),
    _hub("gemma3-270m", "Gemma3-270M", "google/gemma-3-270m@9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
         "gemma3_text", layers=18, neurons=2048, params_b=0.268, head=(262144, 640), heads=4, gated=True),
    _hub("gemma3-1b", "Gemma3-1B", "google/gemma-3-1b-pt@fcf18a2a879aab110ca39f8bffbccd5d49d8eb29",
         "gemma3_text", layers=26, neurons=6912, params_b=1.000, head=(262144, 1152), heads=4, gated=True),
    _hub("phi-2", "Phi-2", "microsoft/phi-2@810d367871c1d460086d9f82db8696f2e0a0fcd0",
         "phi", layers=32, neurons=10240, params_b=2.780, head=(51200, 2560), heads=32),
    _hub("phi-3-mini", "Phi-3-mini",
         "microsoft/Phi-3-mini-4k-instruct@f39ac1d28e925b323eae81227eaba4464caced4e",
         "phi3", layers=32, neurons=8192, params_b=3.821, head=(32064, 3072), heads=32),
    _hub("gpt2", "GPT2", "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e",
         "gpt2", layers=12, neurons=3072, params_b=0.124, head=(50257, 768), heads=12),
    _hub("gpt2-xl", "GPT2-XL", "openai-community/gpt2-xl@15ea56dee5df4983c59b2538573817e1667135e2",
         "gpt2", layers=48, neurons=6400, params_b=1.558, head=(50257, 1600), heads=25),
)
# fmt: on

REGISTRY: Mapping[str, RegisteredModel] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""Name -> model: the embedded ones first, then the paper's, then those beyond it."""


def embedded_data() -> Path:
    """The data root that comes with the embedded models."""
    return _EMBEDDED_ROOT.parent / "data"


def embedded_folder(name: str) -> Path:
    """The folder of an embedded model, in Hugging Face format, in the checkout that this package is part of.

    Raises:
        UnknownNameError: ``name`` is not the name of an embedded model.
        ModelError: the folder is not there: the package was installed without its repository.
    """
    entry = REGISTRY.get(name)
    if entry is None or not entry.embedded:
        known = ", ".join(entry.name for entry in _TABLE if entry.embedded)
        raise UnknownNameError(f"model {name!r} is not embedded; the embedded ones are {known}")
    folder = _EMBEDDED_ROOT / entry.hub
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"embedded model {name!r} is not at {folder}: it comes with the repository, not with an "
            "installed package; clone the repository and run from there"
        )
    return folder
