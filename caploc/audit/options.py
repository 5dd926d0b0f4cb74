"""The command line of the audit: each option declared once, with a help text that teaches."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.defaults import DEFAULTS

MARKERS = (
    "gpu: needs a CUDA GPU; deselect with -m 'not gpu', run alone with -m gpu",
    "min_gb(n): needs a GPU with at least n GB of memory",
    "gated: the model's hub repository asks for an accepted licence and a token (hf auth login)",
    "network: reads from the Hugging Face hub unless its cache holds the files",
    "claim: the test decides a claim of a paper; set by the decorator caploc.audit.claims.claim",
)


def add_options(parser: pytest.Parser) -> None:
    """Declares the options; values are strings, checked together by `caploc.audit.settings`."""
    group = parser.getgroup("caploc", "caploc: audit a paper's claims over model x dataset x sigma")

    def option(name: str, metavar: str, text: str, **more: Any) -> None:
        group.addoption(name, metavar=metavar, default=DEFAULTS.get(name.lstrip("-")), help=text, **more)

    option(
        "--model",
        "NAME",
        "model to audit: a name (llama2-7b, tiny-llama), a folder in Hugging Face format, or ORG/NAME@COMMIT on "
        "the hub. Repeat it or separate by commas. Default: the embedded tiny models, and the paper's models, "
        "which need a GPU.",
        action="append",
    )
    option(
        "--dataset",
        "NAME[=FILE]",
        "dataset to locate on: gsm8k, meta_math, code25k, emotion, imdb (the default five) or a further one; "
        "NAME=FILE.jsonl reads your own records with the fields prompt and answer. Claims about single facts take a "
        "dataset of facts instead: counterfact, zsre, pararel, known_1000, or a file of your own whose records have "
        "subject and group too. Repeatable.",
        action="append",
    )
    option(
        "--paper",
        "NAME",
        "audit the claims of this paper alone: a name (capability_localization), or a folder with a paper's TOML "
        "files. Its tests stand in a folder of the same name. Repeatable; default: all papers that caploc has.",
        action="append",
    )
    option(
        "--scoring",
        "NAME=KIND",
        "how answers to a dataset are scored: label (the likeliest of the answers there are), tokens (the share of the "
        "answer's tokens predicted rightly, teacher forced), exact, number, bleu or chrf (of the text that the model "
        "writes). Repeatable. Default: the paper's for its datasets; for a file of your own label, if its answers are "
        "2 to 20 that come back five times on average, else tokens.",
        action="append",
    )
    option(
        "--sigma",
        "S",
        "threshold of eq. (8), in standard deviations: a neuron is located if its score lies further than S "
        "from the mean. Repeatable. Default: those at which the paper reports a claim (6 in Table 1; 3 and 6 in "
        "Tables 2 and 4; 3, 6 and 12 in Table 3), else 6.",
        action="append",
    )
    option(
        "--data-root",
        "DIR",
        "folder with local copies of the datasets in their own formats: NAME.jsonl, NAME_train.jsonl with "
        "NAME_test.jsonl, or NAME/.",
    )
    option(
        "--samples",
        "N|auto",
        "locate with at most N samples or facts a dataset (at least 16). Default: 320 samples and 96 facts on a "
        "CPU, on a GPU the paper's numbers (section 5.3). auto: claims whose facts are located one by one are "
        "judged on a quarter, a half and all of the default number, by group-sequential boundaries, until a verdict is "
        "reached; all others (curves over samples, what is chosen on other facts, scores of items, the paper's "
        "sizes) take only the last look, at the full number. --plan --samples auto says what that saves.",
    )
    option(
        "--draws",
        "N",
        "random half splits and bootstraps that make the intervals (default 100, at least 20).",
    )
    option(
        "--store",
        "DIR",
        "folder that keeps attribution results, so that a second run is warm and workers share. Default: the "
        "user's cache folder, or $CAPLOC_STORE.",
    )
    option(
        "--engine",
        "NAME",
        "who computes: local (default), this machine's processes, one a worker of -n; or ray, the workers of a Ray "
        "cluster, one a GPU, or one a CPU where it has none. Needs caploc[ray]; only this process writes the store, "
        "so the nodes share no disk. They need the models, and copies of --data-root at the same path.",
    )
    option(
        "--ray-address",
        "HOST:PORT",
        "head of the Ray cluster, or auto for the one that this machine belongs to. Default: $RAY_ADDRESS, that one, "
        "or a cluster of this machine alone.",
    )
    option(
        "--shard",
        "I/N",
        "this is run I of N (from 0) that share one --store: each begins elsewhere in the order of what is missing, "
        "and all end with the whole audit. Give each its own --html. Default: from Slurm (job array, tasks of a job).",
    )
    option(
        "--device",
        "DEV",
        "cpu, cuda, cuda:N, several (cuda:0,1), or auto (default): cpu for embedded models, else cuda.",
    )
    option(
        "--dtype",
        "TYPE",
        "float32, float64, bfloat16, or auto (default): float32 on a CPU, bfloat16 on a GPU.",
    )
    option("--seed", "N", "seed of every random draw (default 0).")
    option("--steps", "S", "steps of the attribution's path, eq. (7) (default 19, as in the paper).")
    option(
        "--quadrature",
        "RULE",
        "how eq. (7) is summed: paper (the literal sum, default), trapezoid, gauss-legendre or adaptive, which "
        "shows whether a verdict depends on it. Short for --reading quadrature=RULE.",
    )
    option(
        "--reading",
        "SETTING=ALTERNATIVE",
        "read the paper otherwise in the whole run, where its text leaves a question open: "
        "dispersion=variance, scope=layer, deviation=positive, path=neuron, value=pre, gsm8k-form=choice, "
        "restored=mlp, quadrature=RULE. Repeatable. The questions stand in each claim's card in the report.",
        action="append",
    )
    group.addoption(
        "--sensitivity",
        action="store_true",
        default=False,
        help="beside the readings chosen, try every other answer to each question that a claim leaves open, one at "
        "a time, at the paper's sigma (6, or the first given); the report then shows where a verdict flips. Such a "
        "cell never fails the run. It takes several times as long, most of it for path=neuron, so name a model and a "
        "dataset or two; -k names readings too: -k 'scope-layer or not -s6-'.",
    )
    group.addoption(
        "--plan",
        action="store_true",
        default=False,
        help="run nothing: say of every claim, at the sizes its cells would have, whether SUPPORTED and REFUTED can be "
        "reached by any data, how often they would be at the effect that its rule is meant to detect (power) and at "
        "the opposite, how often either would be false, and the time and memory that the cells take; where the power "
        "is below 80 percent, which option would do. Rates are simulated: no model runs. With -v a line a cell. Add "
        "--model, --dataset, -k, --samples and --draws as for the run that it is about.",
    )
    group.addoption(
        "--claim-coverage",
        action="store_true",
        default=False,
        help="run nothing: list every claim of the paper with the tests that cover it, and fail if one that a "
        "measurement could decide has no test.",
    )
    group.addoption(
        "--record-expectations",
        action="store_true",
        default=False,
        help="write this run's verdicts of the embedded models to fixtures/expected.toml, to be reviewed "
        "and committed; later runs fail where a verdict or an estimate moves away from them.",
    )
