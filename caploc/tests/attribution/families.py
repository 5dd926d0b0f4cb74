"""Small random models of every supported family, for tests: real Hugging Face classes, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CodeGenConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 61
CONTEXT = 96


def _llama_like(layers: int, heads: int, key_heads: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 8 * heads,
        "intermediate_size": 20,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _without_groups(layers: int, heads: int, key_heads: int) -> dict[str, Any]:
    fields = _llama_like(layers, heads, key_heads)
    del fields["num_key_value_heads"]
    return fields


def _gpt_like(layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "n_embd": 8 * heads,
        "n_inner": 20,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": CONTEXT,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _sliding_types(layers: int) -> list[str]:
    return ["sliding_attention" if index % 2 == 0 else "full_attention" for index in range(layers)]


def _falcon_40b(heads: int, key_heads: int) -> dict[str, Any]:
    return {"new_decoder_architecture": True, "num_kv_heads": key_heads, "ffn_hidden_size": 20, "bias": True}


Configure = Callable[[int, int, int, int], PreTrainedConfig]

# family -> (layers, heads, key heads, window) -> configuration; the window is where the family has one
CONFIGS: dict[str, Configure] = {
    "llama": lambda n, h, k, w: LlamaConfig(**_llama_like(n, h, k)),
    "mistral": lambda n, h, k, w: MistralConfig(**_llama_like(n, h, k), sliding_window=w),
    "qwen2": lambda n, h, k, w: Qwen2Config(
        **_llama_like(n, h, k), use_sliding_window=True, sliding_window=w, layer_types=_sliding_types(n)
    ),
    "qwen3": lambda n, h, k, w: Qwen3Config(
        **_llama_like(n, h, k),
        head_dim=8,
        use_sliding_window=True,
        sliding_window=w,
        layer_types=_sliding_types(n),
    ),
    "gemma2": lambda n, h, k, w: Gemma2Config(
        **_llama_like(n, h, k),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=w,
        layer_types=_sliding_types(n),
    ),
    "gemma3_text": lambda n, h, k, w: Gemma3TextConfig(
        **_llama_like(n, h, k),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=w,
        layer_types=_sliding_types(n),
    ),
    "olmo2": lambda n, h, k, w: Olmo2Config(**_llama_like(n, h, k)),
    "falcon": lambda n, h, k, w: FalconConfig(**_falcon_40b(h, k), **_llama_like(n, h, k)),
    "phi": lambda n, h, k, w: PhiConfig(**_llama_like(n, h, k), partial_rotary_factor=0.5),
    "phi3": lambda n, h, k, w: Phi3Config(**_llama_like(n, h, k), sliding_window=w),
    "gptj": lambda n, h, k, w: GPTJConfig(**_gpt_like(n, h), rotary_dim=4),
    "gpt2": lambda n, h, k, w: GPT2Config(**_gpt_like(n, h)),
    "gpt_neox": lambda n, h, k, w: GPTNeoXConfig(**_without_groups(n, h, k)),
    "opt": lambda n, h, k, w: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=8 * h,
        word_embed_proj_dim=8 * h,
        ffn_dim=20,
        num_hidden_layers=n,
        num_attention_heads=h,
        max_position_embeddings=CONTEXT,
    ),
}


def _sliding(layers: int, window: int) -> dict[str, Any]:
    return {"sliding_window": window, "layer_types": _sliding_types(layers)}


_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8}
_HEAD = {"head_dim": 8}


def _further(family: str, more: Callable[[int, int, int, int], dict[str, Any]] | None = None) -> Configure:
    """A family whose configuration has Llama's fields, and ``more``."""

    def configure(layers: int, heads: int, key_heads: int, window: int) -> PreTrainedConfig:
        extra = more(layers, heads, key_heads, window) if more else {}
        return AutoConfig.for_model(family, **{**_llama_like(layers, heads, key_heads), **extra})

    return configure


# families that differ from those above by what one row of the table says; attribution and erasure are tested on them
FURTHER: dict[str, Configure] = {
    "gemma": _further("gemma", lambda n, h, k, w: _HEAD),
    "smollm3": _further("smollm3", lambda n, h, k, w: {"no_rope_layer_interval": 2}),
    "olmo": _further("olmo"),
    "olmo3": _further("olmo3", lambda n, h, k, w: _sliding(n, w)),
    "granite": _further(
        "granite",
        lambda n, h, k, w: {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "cohere": _further("cohere"),
    "cohere2": _further("cohere2", lambda n, h, k, w: {**_sliding(n, w), **_HEAD}),
    "glm": _further("glm", lambda n, h, k, w: _HEAD),
    "glm4": _further("glm4", lambda n, h, k, w: _HEAD),
    "exaone4": _further("exaone4", lambda n, h, k, w: _sliding(n, w)),
    "ministral": _further("ministral", lambda n, h, k, w: {**_sliding(n, w), **_HEAD}),
    "ministral3": _further("ministral3", lambda n, h, k, w: _HEAD),
    "nemotron": _further("nemotron", lambda n, h, k, w: _HEAD),
    "stablelm": _further("stablelm"),
    "starcoder2": _further("starcoder2", lambda n, h, k, w: {"sliding_window": w}),
    "seed_oss": _further("seed_oss", lambda n, h, k, w: _HEAD),
    "ernie4_5": _further("ernie4_5", lambda n, h, k, w: _HEAD),
    "helium": _further("helium", lambda n, h, k, w: _HEAD),
    "hunyuan_v1_dense": _further("hunyuan_v1_dense", lambda n, h, k, w: _HEAD),
    "arcee": _further("arcee"),
    "apertus": _further("apertus"),
    "diffllama": _further(
        "diffllama", lambda n, h, k, w: {"num_attention_heads": 4, "num_key_value_heads": 2 * min(k, 2)}
    ),
    "codegen": lambda n, h, k, w: CodeGenConfig(**_gpt_like(n, 4), n_ctx=CONTEXT, rotary_dim=4),
    "nanochat": _further("nanochat"),
    "vaultgemma": _further(
        "vaultgemma", lambda n, h, k, w: {**_sliding(n, w), **_HEAD, "query_pre_attn_scalar": 8}
    ),
    "minicpm3": _further(
        "minicpm3", lambda n, h, k, w: {**_LATENT, "num_key_value_heads": h, "scale_emb": 2}
    ),
    "persimmon": _further("persimmon"),
    "biogpt": _further("biogpt"),
    "jais2": _further("jais2"),
    "hyperclovax": _further("hyperclovax"),
    "internlm3": _further("internlm3", lambda n, h, k, w: _HEAD),
    "cwm": _further("cwm", lambda n, h, k, w: {**_sliding(n, w), **_HEAD}),
    "iquestcoder": _further("iquestcoder"),
}


def config_of(family: str, layers: int, heads: int, key_heads: int, window: int) -> PreTrainedConfig:
    """The configuration of a small model of any family of the table."""
    return {**CONFIGS, **FURTHER}[family](layers, heads, key_heads, window)


class in_float64(TorchFunctionMode):  # noqa: N801  read as ``with in_float64():``
    """Within, nothing that is float64 is rounded through float32. Norms, rotary angles and softmaxes of many families
    are cast there whatever the dtype of the model, and two computations equal to 1e-16 can round to two sides."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if any(isinstance(one, torch.Tensor) and one.dtype == torch.float64 for one in args):
            if func is torch.Tensor.float:
                return args[0]
            if func in (torch.Tensor.to, torch.Tensor.type):
                args = tuple(torch.float64 if one is torch.float32 else one for one in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def gpt_neo_config() -> GPTNeoConfig:
    """The family that must be refused."""
    return GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=CONTEXT,
    )


def make_model(config: PreTrainedConfig, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """A random model whose attributions are far from zero: wider weights than default, biases and norms not trivial."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.15)
            else:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    if dtype == torch.float64 and config.model_type in CONFIGS:
        # two computations that agree to 1e-16 rarely, but not never, fall on two sides of a rounding
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(_in_float64, module.forward)
    return model.to(dtype).eval()


def _in_float64(forward: Callable[..., torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    with in_float64():
        return forward(states)
