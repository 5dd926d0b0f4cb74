"""The calling-card numbers computed a second time, with torch, transformers and numpy alone.

Nothing here imports what it checks: data are read from their files, facts and samples chosen, and each method written
down anew from the paper and from the rule that the audit states, with forward hooks on the Hugging Face model and one
pass for each question. ``test_recomputed.py`` holds the audit to it.

    python -m caploc.tests.recomputed LEDGER.jsonl [--models ...] [--seed 0] [--only kn,rome,kc,cnl,edits]

prints for the numbers of an audit's ledger what this file makes of them. With the audit's seed the facts and samples
are the audit's, and only what is random behind them differs (halves, noise, prefixes); with another they are others.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
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


# ----------------------------------------------------------------------------------------- eq. (7), KN and CNL


def attribution(model: Model, one: Asked, steps: int = 19) -> np.ndarray:
    """``[layers, neurons]`` eq. (7) for one example: at each token that predicts one of the answer's, a neuron times
    the sum over n = 0..S of dP/d(neuron) where all of its layer's neurons at that token are scaled by n / S, over S;
    mean over the answer's tokens. The token runs once for each layer and n, on the model's own cache of what is in
    front of it.
    """
    layers, points = len(model.layers), steps + 1
    values: list[Tensor] = []
    keep = [(module, lambda _, args: values.append(args[0][0]), True) for module in model.mlp_outs]
    with torch.no_grad(), hooked(keep):
        model.hf(one.ids[None, :-1])
    scores = np.zeros((layers, model.mlp_outs[0].in_features))
    alphas = torch.arange(points)[:, None] / steps
    for place in range(one.start - 1, len(one.ids) - 1):
        with torch.no_grad():
            past = model.hf(one.ids[None, :place], use_cache=True).past_key_values
        past.batch_repeat_interleave(layers * points)
        scaled = [(alphas * value[place]).requires_grad_() for value in values]

        def scale(layer: int, scaled: list[Tensor] = scaled) -> Hook:
            def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
                states = args[0].clone()
                states[layer * points : (layer + 1) * points, 0] = scaled[layer]
                return (states,)

            return hook

        with hooked([(module, scale(layer), True) for layer, module in enumerate(model.mlp_outs)]):
            token = one.ids[place].expand(layers * points, 1)
            logits = model.hf(token, past_key_values=past, use_cache=True).logits[:, 0]
        likely = logits.softmax(-1)[:, one.ids[place + 1]]
        for layer, slope in enumerate(torch.autograd.grad(likely.sum(), scaled)):
            scores[layer] += (values[layer][place] * slope.sum(0) / steps).double().numpy()
    return scores / (len(one.ids) - one.start)


def knowledge_neurons(scores: np.ndarray, share: float = 0.2) -> set[int]:
    """The neurons whose score is positive and at least this share of the largest."""
    return {int(at) for at in np.flatnonzero((scores >= share * scores.max()) & (scores > 0))}


def outside(scores: np.ndarray, sigma: float) -> set[int]:
    """Eq. (8): the neurons whose score is further than sigma standard deviations from the mean."""
    return {int(at) for at in np.flatnonzero(np.abs(scores - scores.mean()) > sigma * scores.std())}


def overlap(one: set[int], other: set[int]) -> float:
    """Eq. (9); nan for two empty sets."""
    common = len(one & other)
    if not one and not other:
        return math.nan
    return (common / max(len(one), 1) + common / max(len(other), 1)) / 2


def iou(one: set[int], other: set[int]) -> float:
    """Eq. (9)."""
    return len(one & other) / len(one | other) if one | other else math.nan


def halves(
    scores: np.ndarray, first: Sequence[int], second: Sequence[int], sigma: float
) -> tuple[float, float]:
    """Overlap and IoU of what the summed ``scores [samples, layers, neurons]`` of two halves locate."""
    one, other = (outside(scores[list(half)].sum(0), sigma) for half in (first, second))
    return overlap(one, other), iou(one, other)


def of_wordings(sets: Sequence[Sequence[set[int]]]) -> np.ndarray:
    """``[facts]`` the mean overlap of every two wordings of each fact."""
    found = []
    for wordings in sets:
        pairs = [overlap(*pair) for pair in itertools.combinations(wordings, 2)]
        defined = [value for value in pairs if not math.isnan(value)]
        found.append(float(np.mean(defined)) if defined else math.nan)
    return np.array(found)


# ------------------------------------------------------------------------------------------------------- causal tracing


@torch.no_grad()
def traced(model: Model, one: Asked, subject: range, noise: Tensor) -> tuple[np.ndarray, float]:
    """``[layers]`` P(answer's first token) with ``noise [draws, subject's tokens, width]``, in units of three standard
    deviations of the embeddings, on the subject and one layer's clean output put back at the subject's last token; and
    P with noise alone; means over draws. The rows of a batch differ in the layer and the draw."""
    embedded = model.embedding(one.ids[: one.start])
    deviation, draws, last = model.embedding.weight.double().std(correction=0), len(noise), subject[-1]
    noised = embedded.repeat(draws, 1, 1)
    noised[:, subject.start : subject.stop] += (3 * deviation * noise).float()
    clean: list[Tensor] = []

    def states(output: Any) -> Tensor:
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        clean.append(states(output)[0, last].clone())

    def put_back(layer: int) -> Hook:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states(output)[layer * draws : (layer + 1) * draws, last] = clean[layer]

        return hook

    with hooked([(layer, keep, False) for layer in model.layers]):
        model.hf(inputs_embeds=embedded[None])
    with hooked([(module, put_back(layer), False) for layer, module in enumerate(model.layers)]):
        logits = model.hf(inputs_embeds=noised.repeat(len(model.layers) + 1, 1, 1)).logits[:, -1]
    likely = logits.softmax(-1)[:, one.ids[one.start]].double().view(-1, draws).mean(1).numpy()
    return likely[:-1], float(likely[-1])


def best_layers(restored: np.ndarray, count: int = 3) -> set[int]:
    """The layers that restore most, of equal ones the first."""
    return set(np.argsort(-restored, kind="stable")[:count].tolist())


# ------------------------------------------------------------------------------------------------------------- circuits


class Circuits:
    """The model with a residual stream for every receiver: each head's query, each group's key and value, each MLP and
    the output read what the senders on their edges wrote. Hooks hand each its input while the model itself runs."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.senders, self.receivers, edges = ["embedding"], [], []
        feeds = []
        for layer in range(len(model.layers)):
            heads = [f"a{layer}.h{head}" for head in range(model.heads)]
            mlp = f"m{layer}"
            before = list(self.senders)
            for part, count in (("q", model.heads), ("k", model.groups), ("v", model.groups)):
                for number in range(count):
                    name = f"a{layer}.{part}{number}"
                    own = model.heads // count
                    feeds += [(name, head) for head in heads[number * own : (number + 1) * own]]
                    self.receivers.append(name)
                    edges += [(name, sender) for sender in before]
            self.receivers.append(mlp)
            edges += [(mlp, sender) for sender in (before if model.parallel else before + heads)]
            feeds.append((mlp, mlp))
            self.senders += [*heads, mlp]
        self.receivers.append("output")
        edges += [("output", sender) for sender in self.senders]
        self.places = self._places(edges)
        self.possible, self.feeds = self.matrix(edges), self.matrix(feeds)

    def _places(self, edges: Sequence[tuple[str, str]]) -> np.ndarray:
        row, column = (
            {name: at for at, name in enumerate(names)} for names in (self.receivers, self.senders)
        )
        return np.array([(row[receiver], column[sender]) for receiver, sender in edges])

    def matrix(self, edges: Sequence[tuple[str, str]]) -> np.ndarray:
        """``[receivers, senders]`` bool."""
        found = np.zeros((len(self.receivers), len(self.senders)), bool)
        found[tuple(self._places(edges).T)] = True
        return found

    def on_paths(self, kept: np.ndarray) -> np.ndarray:
        """Without the edges that come from a sender that reads nothing or go to a receiver that nobody reads."""
        while True:
            reads = kept.any(1) @ self.feeds
            reads[0] = True
            is_read = self.feeds @ kept.any(0)
            is_read[-1] = True
            left = kept & reads & is_read[:, None]
            if (left == kept).all():
                return left
            kept = left

    @torch.no_grad()
    def log_probs(self, one: Asked, circuits: Sequence[np.ndarray]) -> np.ndarray:
        """Of the answer, mean over its tokens, for each circuit alone: ``[circuits]``."""
        model, on = self.model, torch.from_numpy(np.stack(circuits)).float()
        written = [model.embedding(one.ids[:-1]).expand(len(on), -1, -1)]
        always = torch.zeros(written[0].shape[-1])  # the biases of MLPs, which no edge stands for

        def read(prefix: str) -> Tensor:
            """``[receivers, circuits, tokens, width]`` of the receivers whose names begin so."""
            rows = [at for at, name in enumerate(self.receivers) if name.startswith(prefix)]
            return torch.einsum("crs,sctw->rctw", on[:, rows, : len(written)], torch.stack(written)) + always

        def projected(layer: int, part: str) -> Hook:
            def hook(module: Any, args: Any, output: Tensor) -> Tensor:
                inputs = model.norms[layer](read(f"a{layer}.{part}"))
                weights = module.weight.view(len(inputs), -1, inputs.shape[-1])
                return torch.einsum("rctw,rhw->ctrh", inputs, weights).flatten(2)

            return hook

        def heads(module: Any, args: tuple[Tensor]) -> None:
            parts = args[0].unflatten(-1, (model.heads, -1))
            weights = module.weight.unflatten(-1, (model.heads, -1))
            written.extend(torch.einsum("cthd,whd->hctw", parts, weights))

        def mlp_input(layer: int) -> Hook:
            norm = model.norms[layer] if model.parallel else model.layers[layer].post_attention_layernorm
            return lambda module, args: (norm(read(f"m{layer}")[0]),)

        def mlp_output(module: Any, args: Any, output: Tensor) -> None:
            nonlocal always
            bias = torch.zeros_like(always) if module.bias is None else module.bias
            written.append(output - bias)
            always = always + bias

        hooks: list[tuple[nn.Module, Hook, bool]] = []
        for layer, attention in enumerate(model.attentions):
            hooks += [(getattr(attention, f"{part}_proj"), projected(layer, part), False) for part in "qkv"]
            hooks.append((model.attention_outs[layer], heads, True))
            hooks += [(model.mlps[layer], mlp_input(layer), True), (model.mlp_outs[layer], mlp_output, False)]
        hooks.append((model.final_norm, lambda module, args: (read("output")[0],), True))
        with hooked(hooks):
            logits = model.hf(one.ids[None, :-1].expand(len(on), -1), use_cache=False).logits
        found = (
            logits[:, one.start - 1 :]
            .log_softmax(-1)
            .gather(2, one.ids[one.start :, None].expand(len(on), -1, 1))
        )
        return np.asarray(found[..., 0].mean(1).double())

    def locate(self, one: Asked, share: float = 0.8, runs_per_halving: int = 32) -> set[int]:
        """The edges that are left when blocks of them, from the output down and from half of all to single ones, are
        taken out as long as the answer keeps ``share`` of what log p the model has beyond the empty circuit. All
        blocks of a round are tried alone first; those that pass go one after the other if they still pass together."""

        def tried(circuits: Sequence[np.ndarray]) -> np.ndarray:
            batches = (circuits[begin : begin + 16] for begin in range(0, len(circuits), 16))
            return np.concatenate([self.log_probs(one, batch) for batch in batches])

        def without(kept: np.ndarray, edges: np.ndarray) -> np.ndarray:
            fewer = kept.copy()
            fewer[tuple(self.places[edges].T)] = False
            return self.on_paths(fewer)

        left = self.possible
        floor, whole = tried([np.zeros_like(left), left])
        bar = floor + share * max(whole - floor, 0)
        runs, most = 0, runs_per_halving * math.ceil(math.log2(len(self.places)))
        block = int(left.sum()) // 2
        while left.any() and runs < most:
            at_first = left.sum()
            ahead = np.flatnonzero(left[tuple(self.places.T)])[::-1]
            parts = [ahead[begin : begin + block] for begin in range(0, len(ahead), block)][: most - runs]
            alone = [without(left, part) for part in parts]
            found, runs = tried(alone), runs + len(alone)
            for part, circuit, value in zip(parts, alone, found, strict=True):
                if value < bar:
                    continue
                if left.sum() == at_first:
                    left = circuit
                    continue
                fewer = without(left, part)
                if fewer.sum() == left.sum() or runs == most:
                    continue
                runs += 1
                if tried([fewer])[0] >= bar:
                    left = fewer
            if block == 1 and left.sum() == at_first:
                break
            block = max(min(block, int(left.sum())) // 2, 1)
        return {int(at) for at in np.flatnonzero(left[tuple(self.places.T)])}


# ------------------------------------------------------------------------------------------------------- rank-one edits


@torch.no_grad()
def second_moments(model: Model, texts: Sequence[str], ridge: float) -> list[Tensor]:
    """By layer E[k k^T] of the inputs k of its MLP's output projection, over all tokens, with ``ridge`` times the mean
    of its diagonal added there."""
    neurons = model.mlp_outs[0].in_features
    sums, count = [torch.zeros(neurons, neurons, dtype=torch.float64) for _ in model.layers], 0

    def add(total: Tensor) -> Hook:
        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            keys = args[0][0].double()
            total.add_(keys.T @ keys)

        return hook

    with hooked([(module, add(total), True) for module, total in zip(model.mlp_outs, sums, strict=True)]):
        for text in texts:
            ids = torch.tensor(model.tokenizer(text).input_ids[: model.hf.config.max_position_embeddings])
            model.hf(ids[None])
            count += len(ids)
    means = [total / count for total in sums]
    return [one + ridge * one.diagonal().mean() * torch.eye(neurons, dtype=one.dtype) for one in means]


class Changed(NamedTuple):
    """Mean log p of the new and of the true answer's tokens, edited."""

    new: float
    true: float


def edited(
    model: Model, edit: Edit, layer: int, moment: Tensor, prefixes: Sequence[str], at_subject: bool = True
) -> Changed:
    """ROME's edit of one layer (its released code: 20 losses, 19 updates of Adam at rate .5, KL on "SUBJECT is a" times
    .0625, decay .5, norm at most 4 times that of the value, no further than a loss of .05), and what the model then
    answers; its weights are restored."""
    fact, (prompt,) = edit.fact, edit.fact.prompts[:1]
    texts = [prefix + prompt for prefix in ("", *prefixes)]
    rows = [asked(model, text, edit.new) for text in texts]
    texts.append(f"{fact.subject} is a")
    about = torch.tensor(model.tokenizer(texts[-1]).input_ids)
    fed = [*(row.ids[:-1] for row in rows), about]
    last = [*(row.start - 1 for row in rows), len(about) - 1]
    at = [subject_tokens(model, text, fact.subject)[-1] for text in texts] if at_subject else last
    padded = nn.utils.rnn.pad_sequence(fed, batch_first=True)
    chosen = (torch.arange(len(fed)), torch.tensor(at))
    module = model.mlp_outs[layer]
    seen: dict[str, Tensor] = {}
    delta = torch.zeros(module.out_features, requires_grad=True)

    def add(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        seen.setdefault("keys", args[0][chosen].detach())
        seen.setdefault("value", output[0, at[0]].detach())
        output = output.clone()
        output[chosen] = output[chosen] + delta
        return output

    def losses() -> tuple[Tensor, Tensor]:
        with hooked([(module, add, False)]):
            logits = model.hf(padded).logits
        answers = [
            logits[number, row.start - 1 : len(row.ids) - 1]
            .log_softmax(-1)
            .gather(1, row.ids[row.start :, None])
            for number, row in enumerate(rows)
        ]
        return -torch.cat(answers).mean(), logits[-1, at[-1]].log_softmax(-1)

    optimizer = torch.optim.Adam([delta], lr=0.5)
    before: Tensor | None = None
    for step in range(20):
        answer, essence = losses()
        loss = answer + 0.5 * torch.linalg.vector_norm(delta) / seen["value"].norm() ** 2
        if before is None:
            before = essence.detach()
            if not torch.autograd.grad(answer, delta, retain_graph=True)[0].any():
                break  # nothing of this layer reaches the answer
        else:
            loss = loss + 0.0625 * (essence.exp() * (essence - before)).sum()
        if loss < 0.05 or step == 19:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= min(1.0, float(4 * seen["value"].norm() / delta.norm()))
    keys = seen["keys"][:-1].double()
    direction = torch.linalg.solve(moment, keys.mean(0))
    direction /= direction @ keys[0]
    weight = module.weight.data
    module.weight.data = (weight.double() + torch.outer(delta.detach().double(), direction)).float()
    try:
        new, true = (log_probs(model, asked(model, prompt, answer))[0] for answer in (edit.new, fact.answer))
    finally:
        module.weight.data = weight
    return Changed(new, true)
