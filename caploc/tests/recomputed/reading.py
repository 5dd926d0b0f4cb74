"""The embedded models and their data, read from the files."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
DATA = FIXTURES / "data"
Hook = Callable[..., Any]


# -------------------------------------------------------------------------------------------------------------- models


class Model(NamedTuple):
    """A Hugging Face decoder and its parts, layer by layer."""

    hf: Any
    tokenizer: Any
    layers: list[Any]
    norms: list[nn.Module]
    attentions: list[Any]
    mlps: list[nn.Module]
    mlp_outs: list[nn.Linear]
    attention_outs: list[nn.Linear]
    final_norm: nn.Module
    heads: int
    groups: int
    parallel: bool

    @property
    def embedding(self) -> nn.Embedding:
        found: nn.Embedding = self.hf.get_input_embeddings()
        return found


def load(name: str) -> Model:
    """An embedded model in float32."""
    folder = FIXTURES / "models" / name
    hf: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    hf.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = hf.config
    if config.model_type == "gptj":
        layers = list(hf.transformer.h)
        parts = [(one.ln_1, one.attn, one.mlp, one.mlp.fc_out, one.attn.out_proj) for one in layers]
        shape = (hf.transformer.ln_f, config.n_head, config.n_head, True)
    else:
        layers = list(hf.model.layers)
        parts = [
            (one.input_layernorm, one.self_attn, one.mlp, one.mlp.down_proj, one.self_attn.o_proj)
            for one in layers
        ]
        shape = (hf.model.norm, config.num_attention_heads, config.num_key_value_heads, False)
    return Model(hf, tokenizer, layers, *(list(one) for one in zip(*parts, strict=True)), *shape)


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook, bool]]) -> Iterator[None]:
    """Within it the modules have their hooks; the bool says whether in front of the module or behind it."""
    with ExitStack() as stack:
        for module, hook, before in hooks:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            stack.callback(register(hook).remove)
        yield


class Asked(NamedTuple):
    """The tokens of a prompt and its answer, which begins at ``start``."""

    ids: Tensor
    start: int


def asked(model: Model, prompt: str, answer: str) -> Asked:
    """Tokenized apart, and joined."""
    front = model.tokenizer(prompt).input_ids
    return Asked(
        torch.tensor(front + model.tokenizer(answer, add_special_tokens=False).input_ids), len(front)
    )


def subject_tokens(model: Model, prompt: str, subject: str) -> range:
    """Where the subject stands for the last time."""
    found = model.tokenizer(prompt, return_offsets_mapping=True)
    begin = prompt.rindex(subject)
    inside = [
        place
        for place, (low, high) in enumerate(found.offset_mapping)
        if low < begin + len(subject) and high > begin and prompt[low:high].strip()
    ]
    return range(inside[0], inside[-1] + 1)


@torch.no_grad()
def log_probs(model: Model, one: Asked) -> tuple[float, bool]:
    """Mean log p of the answer's tokens, and whether each of them is the most probable one."""
    logits = model.hf(one.ids[None, :-1]).logits[0, one.start - 1 :].double()
    targets = one.ids[one.start :, None]
    return float(logits.log_softmax(-1).gather(1, targets).mean()), bool(
        (logits.argmax(-1) == targets[:, 0]).all()
    )


# ---------------------------------------------------------------------------------------------------------------- data


class Fact(NamedTuple):
    """A fact in several wordings, the first of which is the original."""

    id: str
    subject: str
    answer: str
    prompts: tuple[str, ...]


def _lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


def _order(*parts: str) -> bytes:
    """What things are put into a random order by: their hash, each part with its length in front."""
    return hashlib.sha256(b"".join(len(one.encode()).to_bytes(8) + one.encode() for one in parts)).digest()


def pararel(seed: int = 0, wordings: int = 5) -> list[Fact]:
    """The locating facts of the embedded ParaRel: the 70 % of the subjects whose hash says so."""
    facts = []
    for file in sorted((DATA / "pararel" / "trex_lms_vocab").glob("*.jsonl")):
        patterns = [one["pattern"] for one in _lines(f"pararel/graphs_json/{file.name}")]
        ending = [one.split("[Y]")[0].rstrip() for one in patterns]
        usable = [
            (number, front)
            for number, (front, whole) in enumerate(zip(ending, patterns, strict=True))
            if "[X]" in front and not any(map(str.isalnum, whole.split("[Y]")[1]))
        ]
        for record in _lines(f"pararel/trex_lms_vocab/{file.name}"):
            name, subject = f"{file.stem}:{record['uuid']}", record["sub_label"]
            if int.from_bytes(_order(subject)[:8]) >= 0.7 * 2**64:
                continue
            inner = sorted(usable, key=lambda one, name=name: _order(str(seed), f"pararel-{name}:{one[0]}"))
            prompts = tuple(front.replace("[X]", subject) for _, front in inner[:wordings])
            facts.append(Fact(name, subject, f" {record['obj_label']}", prompts))
    return sorted(facts, key=lambda fact: _order(str(seed), fact.id))


class Edit(NamedTuple):
    """A fact, and what it is to become."""

    fact: Fact
    new: str


def zsre(seed: int = 0) -> list[Edit]:
    """The locating facts of the embedded zsRE, each to be edited to the record's false answer."""
    edits = []
    for number, record in enumerate(_lines("zsre_train.jsonl")):
        fact = Fact(
            f"zsre-train-{number:05d}", record["subject"], f" {record['answers'][0]}", (record["src"],)
        )
        edits.append(Edit(fact, f" {record['alt']}"))
    return sorted(edits, key=lambda edit: _order(str(seed), edit.fact.id))


TEMPLATES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "gsm8k": lambda one: (
        f"Question: {one['question']}\nAnswer:",
        " " + "".join(part.split(">>")[-1] for part in one["answer"].split("<<")),
    ),
    "meta_math": lambda one: (f"Question: {one['query']}\nAnswer:", f" {one['response']}"),
    "code25k": lambda one: (
        f"Instruction: {one['instruction']}\n{one['input'] + chr(10) if one['input'] else ''}Code:",
        f"\n{one['output']}",
    ),
    "emotion": lambda one: (
        f"Text: {one['text']}\nEmotion:",
        f" {('sadness', 'joy', 'love', 'anger', 'fear', 'surprise')[one['label']]}",
    ),
    "imdb": lambda one: (
        f"Review: {one['text'].replace('<br />', ' ')}\nSentiment:",
        f" {('negative', 'positive')[one['label']]}",
    ),
    "zsre": lambda one: (one["src"], f" {one['answers'][0]}"),
}


def samples(model: Model, dataset: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """The first ``count`` prompts, with their answers, that the context holds; in the order of their hash."""
    texts = [TEMPLATES[dataset](one) for one in _lines(f"{dataset}_train.jsonl")]
    keys: Iterable[tuple[str, ...]] = (("text", *text) for text in texts)
    if dataset == "zsre":  # its facts are grouped by subject
        keys = (("group", one["subject"]) for one in _lines("zsre_train.jsonl"))
    ordered = [
        text for _, text in sorted(zip(keys, texts, strict=True), key=lambda one: _order(str(seed), *one[0]))
    ]
    longest = model.hf.config.max_position_embeddings
    fitting = (text for text in ordered if len(asked(model, *text).ids) <= longest)
    return list(itertools.islice(fitting, count))
