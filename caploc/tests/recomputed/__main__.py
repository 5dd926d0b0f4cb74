"""What independent code makes of the calling-card numbers of an audit's ledger.

    python -m caploc.tests.recomputed LEDGER.jsonl [--models NAME ...] [--claims PART] [--seed N]

With the audit's seed, 0, the facts and samples are the audit's, and only what is random behind them differs: noise,
halves, prefixes. With another, facts and samples are others as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from caploc.tests.recomputed.circuits import Circuits
from caploc.tests.recomputed.edits import edited, second_moments
from caploc.tests.recomputed.locating import (
    attribution,
    best_layers,
    halves,
    knowledge_neurons,
    of_wordings,
    traced,
)
from caploc.tests.recomputed.reading import asked, load, log_probs, pararel, samples, subject_tokens, zsre


class Row(NamedTuple):
    """A number of the audit with its interval, and what this file makes of it."""

    model: str
    name: str
    audit: float
    interval: tuple[float, float]
    anew: float

    def __str__(self) -> str:
        low, high = self.interval
        where = "inside" if low <= self.anew <= high else "OUTSIDE"
        audit = f"{self.audit:>7.3f} [{low:>6.3f}, {high:>6.3f}]"
        return f"{self.model:<11}{self.name:<34}{audit}{self.anew:>8.3f}  {where}"


class Anew:
    """The numbers of one model, with draws of their own: of noise, halves and prefixes; and with another ``seed`` of
    facts and samples as well."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.model = name, seed, load(name)
        self.random = np.random.default_rng([seed, 2026])
        self._scores: dict[tuple[str, int], np.ndarray] = {}

    def rows(self, finding: dict[str, Any]) -> Iterator[Row]:
        """The rows of one finding; none where it is of another kind, or has no number."""
        claim, settings = finding["claim"], finding["settings"]
        if (
            claim in ("fidelity-kn-overlap", "fidelity-rome-overlap", "fidelity-kc-overlap")
            and finding["parts"]
        ):
            method = claim.split("-")[1]
            sets = self._of_facts(method, settings["facts"])
            part = finding["parts"]["overlap-introduction" if method == "kc" else "overlap"]
            yield self._row(
                f"{method.upper()} overlap of wordings", part, float(np.nanmean(of_wordings(sets)))
            )
            if method == "kc":
                same = [
                    float(np.mean([a == b for a, b in itertools.combinations(one, 2)]))
                    for one in sets
                    if len(one) > 1
                ]
                yield self._row("KC identical circuits", finding["parts"]["identical"], float(np.mean(same)))
        elif claim == "table1-overlap" and finding["interval"]:
            dataset, sigma = finding["cell"]["dataset"], finding["cell"]["sigma"]
            yield self._row(
                f"CNL {dataset}, sigma {sigma:g}", finding, self._halves(dataset, finding["n"], sigma)
            )
        elif claim == "reliability-rome-layers-equal" and finding["plots"]:
            curves = finding["plots"][0]["data"]["curves"]
            moments = self._moments(settings["ridge"])
            prefixes = self._prefixes(settings["editing"]["prefix_tokens"])
            edits = [one for one in zsre(self.seed) if self._right(one.fact.prompts[0], one.fact.answer)]
            edits = edits[: settings["edited_facts"]]
            for layer, moment in enumerate(moments):
                for name in ("efficacy", "efficacy, last prompt token"):
                    part = {
                        "estimate": curves[name]["mean"][layer],
                        "interval": (curves[name]["low"][layer], curves[name]["high"][layer]),
                    }
                    took = [
                        edited(self.model, one, layer, moment, prefixes, name == "efficacy") for one in edits
                    ]
                    share = float(np.mean([one.new > one.true for one in took]))
                    yield self._row(
                        f"ROME {name}, layer {layer}".replace("last prompt token", "last"), part, share
                    )

    def _row(self, name: str, part: dict[str, Any], anew: float) -> Row:
        return Row(self.name, name, part["estimate"], tuple(part["interval"]), anew)

    def _right(self, prompt: str, answer: str) -> bool:
        return log_probs(self.model, asked(self.model, prompt, answer))[1]

    def _of_facts(self, method: str, count: int) -> list[list[set[int]]]:
        """What is located for the wordings that the model answers rightly, of the facts that it knows."""
        circuits = Circuits(self.model)
        found = []
        for fact in pararel(self.seed)[:count]:
            if not self._right(fact.prompts[0], fact.answer):
                continue
            sets = []
            for prompt in (one for one in fact.prompts if self._right(one, fact.answer)):
                one = asked(self.model, prompt, fact.answer)
                if method == "kn":
                    sets.append(knowledge_neurons(attribution(self.model, one)))
                elif method == "kc":
                    sets.append(circuits.locate(one))
                else:
                    subject = subject_tokens(self.model, prompt, fact.subject)
                    shape = (10, len(subject), self.model.embedding.embedding_dim)
                    noise = torch.from_numpy(self.random.standard_normal(shape))
                    sets.append(best_layers(traced(self.model, one, subject, noise)[0]))
            found.append(sets)
        return found

    def _halves(self, dataset: str, count: int, sigma: float) -> float:
        if (dataset, count) not in self._scores:
            texts = samples(self.model, dataset, count, self.seed)
            found = [attribution(self.model, asked(self.model, *text)) for text in texts]
            self._scores[dataset, count] = np.stack(found)
        scores = self._scores[dataset, count]
        orders = [self.random.permutation(count) for _ in range(100)]
        overlaps = [halves(scores, one[: count // 2], one[count // 2 :], sigma)[0] for one in orders]
        return float(np.nanmean(overlaps))

    def _moments(self, ridge: float) -> list[Tensor]:
        names = ("zsre", "gsm8k", "meta_math", "code25k", "emotion", "imdb")
        chosen = itertools.chain.from_iterable(samples(self.model, name, 80, self.seed) for name in names)
        return second_moments(self.model, ["".join(text) for text in chosen], ridge)

    @torch.no_grad()
    def _prefixes(self, lengths: Sequence[int]) -> list[str]:
        """Texts drawn from the model's five most probable ordinary tokens, each with a full stop behind it."""
        tokenizer = self.model.tokenizer
        texts = []
        for length in lengths:
            ids = [tokenizer.bos_token_id]
            for _ in range(length):
                logits = self.model.hf(torch.tensor([ids])).logits[0, -1].double()
                logits[tokenizer.all_special_ids] = -math.inf
                best = logits.topk(5)
                ids.append(int(self.random.choice(best.indices.numpy(), p=best.values.softmax(0).numpy())))
            texts.append(f"{tokenizer.decode(ids[1:], skip_special_tokens=True).strip()}. ")
        return texts


def main() -> None:
    """Print the table of a ledger."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--models", nargs="+", default=["tiny-llama", "tiny-gptj"])
    parser.add_argument("--claims", default="", help="only claims whose id contains this")
    parser.add_argument(
        "--seed", type=int, default=0, help="0: the facts and samples of an audit with that seed"
    )
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.ledger.read_text(encoding="utf-8").splitlines()]
    findings = [line["finding"] for line in lines if line["type"] == "finding"]
    sys.stdout.write(f"{'model':<11}{'number':<34}{'audit':>7} [interval      ]{'anew':>8}\n")
    for name in options.models:
        anew = Anew(name, options.seed)
        for finding in findings:
            if finding["cell"]["model"] == name and options.claims in finding["claim"]:
                for row in anew.rows(finding):
                    sys.stdout.write(f"{row}\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
