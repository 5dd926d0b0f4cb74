from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from caploc.errors import UnknownNameError
from caploc.papers import PaperError, load_paper, parse_paper

SOURCE = (resources.files("caploc.papers") / "capability_localization.toml").read_text(encoding="utf-8")
SHARED = Path(__file__).parents[4] / "shared" / "paper"
ENTRIES = {
    "table1-overlap",
    "table1-iou",
    "table1-neuron",
    "table1-both-high",
    "abstract-gsm8k-overlap",
    "table1-commonality",
    "table1-partition-independence",
    "fig4-dataset-overlap",
    "convergence-llama2-7b",
    "convergence-llama2-13b",
    "convergence-gptj-6b",
    "convergence-subset-suffices",
    "eq8-literal-variance",
    "control-untrained-overlap",
}


def test_every_entry_of_the_family_is_there() -> None:
    assert set(load_paper("capability_localization").claims) == ENTRIES


def test_table_1_has_its_45_cells_as_printed() -> None:
    paper = load_paper("capability_localization")
    cells = [paper.claim(f"table1-{row}").published for row in ("overlap", "iou", "neuron")]
    assert [len(cell) for cell in cells] == [15, 15, 15]
    assert paper.published("table1-overlap", "llama2-13b", "code25k") == "91.10"
    assert paper.published("table1-neuron", "llama2-13b", "gsm8k") == "0.10"
    assert paper.published("table1-iou", "gptj-6b", "imdb") == "96.60"
    assert paper.published("table1-iou", "tiny-llama", "imdb") is None
    assert paper.published("fig4-dataset-overlap", "llama2-7b", None) is None


def test_thresholds_of_both_high_are_those_of_the_two_claims() -> None:
    claims = load_paper("capability_localization").claims
    both = claims["table1-both-high"].rule.parameters
    for name in ("overlap", "iou"):
        own = claims[f"table1-{name}"].rule.parameters
        assert {key: both[f"{name}_{key}"] for key in own} == dict(own)


def test_every_guarded_claim_names_its_control_and_back() -> None:
    paper = load_paper("capability_localization")
    guards = {(control.id, claim) for control in paper.controls.values() for claim in control.guards}
    named = {(control, claim.id) for claim in paper.claims.values() for control in claim.controls}
    assert guards == named


def test_digest_follows_the_content_and_not_its_layout() -> None:
    original = parse_paper(SOURCE, "x").digest
    assert original == load_paper("capability_localization").digest
    assert original == parse_paper("# a comment\n" + SOURCE, "x").digest
    assert (
        original
        != parse_paper(SOURCE.replace("supported_above = 0.80", "supported_above = 0.79"), "x").digest
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace('id = "table1-iou"', 'id = "table1-overlap"'), "'table1-overlap' occurs twice"),
        (
            lambda s: s.replace('direction = "low"', "", 1),
            "'table1-neuron': the field 'direction' is missing",
        ),
        (
            lambda s: s.replace("direction =", "directoin =", 1),
            "unknown field 'directoin'|'direction' is missing",
        ),
        (lambda s: s.replace('kind = "trend"', 'kind = "tend"', 1), "unknown kind 'tend'"),
        (lambda s: s.replace("supported_above = 0.80", "supported_above = nan"), "finite number"),
        (lambda s: s.replace("supported_above = 0.80", 'supported_above = "0.80"'), "finite number"),
        (lambda s: s.replace("level = 0.05", "level = 5.0", 1), "outside \\[0, 1\\]"),
        (lambda s: s.replace('"91.10"', "91.10", 1), "published llama2-13b/code25k is 91.1"),
        (lambda s: s.replace('"91.10"', '"91.10%"', 1), "write the digits as printed"),
        (
            lambda s: s.replace('overlap_claim = "table1-overlap"', 'overlap_claim = "tabel1"'),
            "'tabel1' is no claim",
        ),
        (
            lambda s: s.replace('controls = ["control-layer-matched-random"]', 'controls = ["x"]'),
            "no control 'x'",
        ),
        (lambda s: s.replace('guards = ["fig4-dataset-overlap"]', 'guards = ["fig4"]'), "guards 'fig4'"),
        (lambda s: s.replace('quote = "', 'quote = "' + "word " * 25, 1), "more than 25 words"),
        (lambda s: s.replace('published_unit = "%"', 'published_unit = "percent"', 1), "published_unit"),
        (lambda s: s + "\n[[claim]\n", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(change: Callable[[str], str], message: str) -> None:
    changed = change(SOURCE)
    assert changed != SOURCE
    with pytest.raises(PaperError, match=message) as caught:
        parse_paper(changed, "changed.toml")
    assert str(caught.value).startswith("changed.toml")
    assert "\n" not in str(caught.value)


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="there is capability_localization"):
        load_paper("capability-localisation")
    with pytest.raises(UnknownNameError, match=r"'table1-overlop'.*table1-overlap"):
        load_paper("capability_localization").claim("table1-overlop")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the paper's text in ../shared/paper to compare with")
def test_quotes_and_numbers_stand_in_the_paper() -> None:
    text = (SHARED / "capability-localization.txt").read_text(encoding="utf-8")
    inventory = tomllib.loads((SHARED / "claims.toml").read_text(encoding="utf-8"))
    paper = load_paper("capability_localization")
    for claim in paper.claims.values():
        assert claim.quote in text, claim.id
    names = {"IoU": "table1-iou", "overlap": "table1-overlap", "neuron": "table1-neuron"}
    models = {"Llama2-7B": "llama2-7b", "Llama2-13B": "llama2-13b", "GPTJ-6B": "gptj-6b"}
    printed = {
        (names[row["quantity"]], models[row["model"]], row["dataset"].lower()): row["printed"]
        for row in inventory["data"]["table1"]
    }
    ours = {
        (name, *cell): value
        for name in names.values()
        for cell, value in paper.claims[name].published.items()
    }
    assert ours == printed
