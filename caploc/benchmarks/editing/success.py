"""Whether edits of the embedded models take, layer by layer, and whether they stay where they belong."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.editing.cases import TOKENS, Sizes, corpus, requests
from caploc.benchmarks.tables import Table, Value
from caploc.errors import CaplocError
from caploc.interventions.rank_one.covariance import KeyCovariance, key_covariance
from caploc.interventions.rank_one.edit import edit_all_layers
from caploc.interventions.rank_one.prompts import Editing, Token, draw_prefixes
from caploc.interventions.rank_one.scores import EditScore, score_edit, summarize_edits
from caploc.models import LanguageModel, load_model

_RIDGE = 1e-4


def measure_success(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row for each model, edited token and layer; layer ``-`` is the model before any edit."""
    columns = {
        "model": "model",
        "token": "edited token",
        "layer": "layer",
        "efficacy": "efficacy %",
        "exact": "exact %",
        "paraphrase": "paraphrase %",
        "neighbourhood": "neighbourhood %",
        "harmonic": "harmonic %",
    }
    table = Table("success", f"Do edits take? {sizes.facts} facts of the embedded COUNTERFACT", columns)
    table.notes.append(
        "efficacy: the new answer is more probable than the true one; exact: greedy decoding gives it"
    )
    table.notes.append(
        f"covariance of keys: embedded texts, ridge {_RIDGE:g} (GPT-J's first MLP sees the token alone, so that its "
        "keys span no more than the corpus has distinct tokens)"
    )
    for name in sizes.embedded:
        try:
            lm = load_model(name)
        except CaplocError as error:
            table.notes.append(f"{name} not measured: {error}")
            continue
        covariance = key_covariance(lm, corpus(sizes.texts), ridge=_RIDGE)
        before = [score_edit(lm, request) for request in requests(sizes.facts)]
        table.rows.append(_row(name, None, None, before))
        for token in TOKENS:
            for layer, scores in _scores(lm, covariance, token, sizes).items():
                table.rows.append(_row(name, token, layer, scores))
    yield table


def _scores(
    lm: LanguageModel, covariance: KeyCovariance, token: Token, sizes: Sizes
) -> dict[int, list[EditScore]]:
    editing = Editing(token=token, prefixes=draw_prefixes(lm, Editing().prefix_tokens))
    found: dict[int, list[EditScore]] = {layer: [] for layer in range(lm.num_layers)}
    for request in tqdm(
        requests(sizes.facts), desc=f"{lm.name} {token}", unit="fact", disable=None, leave=False
    ):
        for layer, edit in edit_all_layers(lm, request, covariance, editing=editing).items():
            with edit.applied(lm):
                found[layer].append(score_edit(lm, request))
    return found


def _row(model: str, token: Token | None, layer: int | None, scores: list[EditScore]) -> dict[str, Value]:
    summary = summarize_edits(scores)
    names = ("efficacy", "exact", "paraphrase", "neighbourhood", "harmonic")
    shares = {name: getattr(summary, name) for name in names}
    percent = {name: None if share is None else 100 * share for name, share in shares.items()}
    return {"model": model, "token": token, "layer": layer, **percent}
