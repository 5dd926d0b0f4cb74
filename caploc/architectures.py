"""Where each model family keeps its layers and MLPs: ONE frozen table, read by everything that touches a model.

Adding a family is one line in ``ARCHITECTURES``; ``caploc/tests/attribution/test_exactness.py`` then draws small random
models of it and compares the packed engine with the slow oracle. A family whose attention does not obey the masks,
positions and cache that it is given fails the engine's self-check (GPT-Neo does) and has no place in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from caploc.errors import ModelError


@dataclass(frozen=True)
class Architecture:
    """Paths of one model family's parts.

    ==================  ==========================================================================================
    ``family``          ``config.model_type`` of the Hugging Face model
    ``layers``          the list of decoder layers, from the causal LM
    ``mlp_in``          the MLP's input projections, from a layer (gate and up where the MLP is gated)
    ``activation``      the MLP's nonlinearity, from a layer; with a gate, what the gate passes through
    ``mlp_out``         the MLP's output projection, from a layer; a *neuron* is one unit of its input
    ``attention_out``   the attention's output projection, from a layer
    ``gated``           neurons are activation(gate) * up; up is what the last of ``mlp_in`` ends with
    ``flat_mlp``        the layer flattens batch and sequence before its MLP, so a row cannot broadcast there (OPT)
    ``adds_in_place``   the layer writes to what its MLP puts out (Falcon), so that it is given a copy of what is kept
    ==================  ==========================================================================================
    """

    family: str
    layers: str
    mlp_in: tuple[str, ...]
    activation: str
    mlp_out: str
    attention_out: str
    gated: bool = False
    flat_mlp: bool = False
    adds_in_place: bool = False

    def decoder_layers(self, model: nn.Module) -> list[nn.Module]:
        """The decoder layers of ``model``, in order."""
        return list(model.get_submodule(self.layers).children())

    def mlp_out_of(self, layer: nn.Module) -> nn.Module:
        """The output projection of ``layer``'s MLP."""
        return layer.get_submodule(self.mlp_out)

    def activation_of(self, layer: nn.Module) -> nn.Module:
        """The nonlinearity of ``layer``'s MLP."""
        return layer.get_submodule(self.activation)


def _gated(family: str) -> Architecture:
    """Llama's layout, which most families have taken over."""
    inputs = ("mlp.gate_proj", "mlp.up_proj")
    return Architecture(
        family, "model.layers", inputs, "mlp.act_fn", "mlp.down_proj", "self_attn.o_proj", gated=True
    )


def _ungated(family: str) -> Architecture:
    """Llama's layout without the gate: neurons are activation(up)."""
    return Architecture(
        family, "model.layers", ("mlp.up_proj",), "mlp.act_fn", "mlp.down_proj", "self_attn.o_proj"
    )


def _joined(family: str) -> Architecture:
    """Phi-3's layout: gate and up are one projection."""
    inputs, activation = ("mlp.gate_up_proj",), "mlp.activation_fn"
    return Architecture(
        family, "model.layers", inputs, activation, "mlp.down_proj", "self_attn.o_proj", gated=True
    )


_LIKE_LLAMA = (
    "llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "vaultgemma",
    "olmo", "olmo2", "olmo3", "smollm3", "granite", "cohere", "cohere2", "exaone4", "stablelm", "seed_oss", "ernie4_5",
    "helium", "hunyuan_v1_dense", "hyperclovax", "diffllama", "minicpm3", "internlm3", "cwm", "iquestcoder",
)  # fmt: skip

_TABLE = (
    *map(_gated, _LIKE_LLAMA),
    *map(_ungated, ("nemotron", "arcee", "apertus", "jais2")),
    *map(_joined, ("phi3", "glm", "glm4")),
    Architecture("phi", "model.layers", ("mlp.fc1",), "mlp.activation_fn", "mlp.fc2", "self_attn.dense"),
    Architecture("starcoder2", "model.layers", ("mlp.c_fc",), "mlp.act", "mlp.c_proj", "self_attn.o_proj"),
    Architecture(
        "nanochat", "model.layers", ("mlp.fc1",), "mlp.activation_fn", "mlp.fc2", "self_attn.o_proj"
    ),
    Architecture(
        "persimmon",
        "model.layers",
        ("mlp.dense_h_to_4h",),
        "mlp.act",
        "mlp.dense_4h_to_h",
        "self_attn.dense",
    ),
    Architecture(
        "falcon",
        "transformer.h",
        ("mlp.dense_h_to_4h",),
        "mlp.act",
        "mlp.dense_4h_to_h",
        "self_attention.dense",
        adds_in_place=True,
    ),
    Architecture("biogpt", "biogpt.layers", ("fc1",), "activation_fn", "fc2", "self_attn.out_proj"),
    Architecture("codegen", "transformer.h", ("mlp.fc_in",), "mlp.act", "mlp.fc_out", "attn.out_proj"),
    Architecture("gptj", "transformer.h", ("mlp.fc_in",), "mlp.act", "mlp.fc_out", "attn.out_proj"),
    Architecture("gpt2", "transformer.h", ("mlp.c_fc",), "mlp.act", "mlp.c_proj", "attn.c_proj"),
    Architecture(
        "gpt_neox",
        "gpt_neox.layers",
        ("mlp.dense_h_to_4h",),
        "mlp.act",
        "mlp.dense_4h_to_h",
        "attention.dense",
    ),
    Architecture(
        "opt", "model.decoder.layers", ("fc1",), "activation_fn", "fc2", "self_attn.out_proj", flat_mlp=True
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({entry.family: entry for entry in _TABLE})

_REFUSED = {
    "gpt_neo": "its local attention ignores the mask that packed attribution hands it, so results would be wrong",
}

INSIDE: Mapping[str, str] = MappingProxyType(
    {"gemma3": "gemma3_text", "mistral3": "mistral", "qwen3_vl": "qwen3_vl_text"}
)
"""Families that also see images and whose text model is loaded (``caploc.model.inside``), with its usual family."""


def _mixes_experts(config: type[PreTrainedConfig]) -> bool:
    """Whether models of a family have several MLPs a layer, of which a router picks some, unless told otherwise."""
    counts = [getattr(config, name) for name in dir(config) if "experts" in name and "_per_" not in name]
    parts = getattr(config, "sub_configs", {}).values()
    return any(isinstance(count, int) and count > 1 for count in counts) or any(map(_mixes_experts, parts))


def architecture_of(family: str) -> Architecture:
    """The table's entry for ``family`` (a ``config.model_type``).

    Raises:
        ModelError: the family is not in the table, or is refused; the message names it and the file to extend.
    """
    if family in _REFUSED:
        raise ModelError(f"model family {family!r} is refused: {_REFUSED[family]} (caploc/architectures.py)")
    if family in INSIDE:
        raise ModelError(
            f"model family {family!r} also sees images, and its text model alone is audited; give load_model the "
            "model's folder or hub id, which takes it out"
        )
    if family not in ARCHITECTURES and family in CONFIG_MAPPING and _mixes_experts(CONFIG_MAPPING[family]):
        raise ModelError(
            f"model family {family!r} is refused: it is a mixture of experts, whose router picks other neurons as soon "
            "as neurons below are scaled or erased, so a score would mix a neuron's own effect with the router's; use "
            "a dense model"
        )
    if family not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"model family {family!r} is not supported; add one line for it to caploc/architectures.py "
            f"(families there: {known})"
        )
    return ARCHITECTURES[family]


def context_of(config: PreTrainedConfig) -> int:
    """Tokens that the context of a model made by ``config`` holds.

    Long RoPE turns every token by other angles as soon as a sequence exceeds ``original_max_position_embeddings``: what
    a token's prediction is would depend on how many tokens follow it, or stand in another row. Its context ends there.

    Raises:
        ModelError: the configuration has no such number.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    # of the model, or of each kind of layer
    ropes = [each for each in (rope, *rope.values()) if isinstance(each, dict)]
    long = [each for each in ropes if each.get("rope_type") == "longrope"]
    lengths = [
        getattr(config, "max_position_embeddings", None),
        *(each.get("original_max_position_embeddings") for each in long),
    ]
    for length in lengths:
        if not isinstance(length, int) or not 0 < length < 1 << 31:
            raise ModelError(
                f"the context of a {config.model_type} model must be a whole number of tokens, but config.json has "
                f"{length!r}; compare max_position_embeddings and the rope's parameters with the original"
            )
    return min(lengths)  # type: ignore[type-var, return-value]


def input_axis(projection: nn.Module) -> int:
    """The axis of a linear projection's weight that its inputs stand along: nn.Linear stores [outputs, inputs],
    GPT-2's Conv1D [inputs, outputs].

    Raises:
        ModelError: another kind of module, which has no such weight.
    """
    if isinstance(projection, nn.Linear):
        return 1
    if type(projection).__name__ == "Conv1D":
        return 0
    raise ModelError(
        f"a projection is a {type(projection).__name__}, not a plain linear layer; merge adapters and load the model "
        "unquantized"
    )


def weight_by_input(projection: nn.Module) -> Tensor:
    """A linear projection's weight as ``[inputs, outputs]``, a detached view of it. Raises as ``input_axis``."""
    weight: Tensor = projection.weight.detach()  # type: ignore[operator]
    return weight.T if input_axis(projection) else weight
