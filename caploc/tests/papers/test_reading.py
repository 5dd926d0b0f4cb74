"""The paper's files: complete, refused where they are wrong, and true to the documents."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from importlib import resources

import pytest

from caploc.errors import UnknownNameError
from caploc.findings import Cell
from caploc.papers import Claim, PaperError, load_paper, parse_paper
from caploc.papers.model import LONGEST_QUOTE_WORDS, PRINTED_NUMBER
from caploc.rules import Comparison, Derived

KEY = "capability_localization"
PAPER = load_paper(KEY)
FOLDER = resources.files("caploc.papers") / KEY
FILES = {
    f"{KEY}/{name}": (FOLDER / name).read_text(encoding="utf-8")
    for name in sorted(file.name for file in FOLDER.iterdir() if file.name.endswith(".toml"))
}
ALL = pytest.mark.parametrize("claim", PAPER.claims.values(), ids=list(PAPER.claims))


def test_every_table_has_its_cells_as_printed() -> None:
    assert Counter(cell.table for cell in PAPER.cells) == {
        "table1": 45,
        "table2": 108,
        "table3": 56,
        "table4": 9,
    }
    published = PAPER.claim("table1-overlap").published
    assert published(Cell("llama2-13b", "code25k", 6.0)) == "91.10"
    assert [
        cell.printed for cell in PAPER.table("table1", model="gptj-6b", quantity="iou", dataset="imdb")
    ] == ["96.60"]
    (average,) = PAPER.table("table2", model="gptj-6b", method="all but located", epoch=10, dataset="average")
    assert average.id == "table2/gptj-6b/sigma6/all-but-located/10/average" and average.value == Decimal(
        "39.73"
    )
    assert average.sigma_in == {"poster": 3} and average.second_in == ("paper", "poster")
    (change,) = PAPER.table("table3", model="llama2-7b", sigma=12, method="located", dataset="gsm8k")
    assert (change.id, change.change) == ("table3/llama2-7b/sigma12/located/gsm8k", "+0.06")
    assert published(Cell("tiny-llama", "imdb", 6.0)) is None


@ALL
def test_a_claim_is_whole(claim: Claim) -> None:
    assert claim.group in PAPER.groups and 0 < claim.level < 1
    assert claim.sources and all(source.document in PAPER.documents for source in claim.sources)
    assert all(len(source.quote.split()) <= LONGEST_QUOTE_WORDS for source in claim.sources)
    assert all(PRINTED_NUMBER.fullmatch(number.printed) for number in claim.numbers)
    assert set(claim.ambiguities) <= set(PAPER.ambiguities)


@ALL
def test_a_claims_rule_has_what_it_reads(claim: Claim) -> None:
    rule = claim.rule
    assert (rule.detectable is not None) == isinstance(rule, Comparison)
    assert bool(rule.claims) == isinstance(rule, Derived)
    for low, high in (("refuted_below", "supported_above"), ("supported_below", "refuted_above")):
        if low in rule.parameters and high in rule.parameters:
            assert rule.parameters[low] <= rule.parameters[high], "one number would refute and support"
    if "share" in rule.parameters:
        assert 0 < rule.parameters["share"] <= 1
    if rule.detectable is not None:
        margin = rule.parameters.get("equivalence_margin", 0)
        assert rule.detectable > margin, "an effect equivalent to none is not to be detected"
    if claim.margin is not None:
        assert claim.margin.value >= (1 if claim.margin.kind == "factor" else 0)
    if rule.kind in ("agreement", "readings"):
        assert claim.margin is not None and (claim.cells or claim.numbers)
        keys = [number.key for number in claim.numbers]
        assert len(set(keys)) == len(keys), "a finding names the numbers it measures"


def test_thresholds_of_both_high_are_those_of_the_two_claims() -> None:
    both = PAPER.claims["table1-both-high"].rule.parameters
    for name in ("overlap", "iou"):
        own = PAPER.claims[f"table1-{name}"].rule.parameters
        assert {key: both[f"{name}_{key}"] for key in own} == dict(own)


def test_every_guarded_claim_names_its_control_and_back() -> None:
    guards = {(control.id, claim) for control in PAPER.controls.values() for claim in control.guards}
    named = {(control, claim.id) for claim in PAPER.claims.values() for control in claim.controls}
    assert guards == named


def test_every_ambiguity_concerns_some_claim() -> None:
    named = {ambiguity for claim in PAPER.claims.values() for ambiguity in claim.ambiguities}
    assert named == set(PAPER.ambiguities)


def test_digest_follows_the_content_and_not_its_layout() -> None:
    assert parse_paper(FILES).digest == PAPER.digest
    commented = {name: "# a comment\n" + text for name, text in FILES.items()}
    assert parse_paper(commented).digest == PAPER.digest
    moved = changed("commonality.toml", "supported_above = 0.8,", "supported_above = 0.79,")
    assert parse_paper(moved).digest != PAPER.digest
    margin = changed("paper.toml", "least-loss = 0.05", "least-loss = 0.04")
    assert parse_paper(margin).digest != PAPER.digest


def changed(name: str, old: str, new: str) -> dict[str, str]:
    """The paper's files with the first ``old`` in one of them replaced."""
    text = FILES[f"{KEY}/{name}"]
    assert old in text
    return {**FILES, f"{KEY}/{name}": text.replace(old, new, 1)}


COMMON, TABLES, HEAD = "commonality.toml", "tables.toml", "paper.toml"
WRONG: list[tuple[str, str, str, str]] = [
    (COMMON, 'id = "table1-iou"', 'id = "table1-overlap"', "claim: the id 'table1-overlap' occurs twice"),
    (COMMON, 'id = "table1-neuron"\n', "", "claim 'None': the field 'id' is missing"),
    (COMMON, 'direction = "low"\n', "", "claim 'table1-neuron': the field 'direction' is missing"),
    (COMMON, 'direction = "high"', 'direction = ""', "'table1-overlap': the field 'direction' must be"),
    (
        COMMON,
        'rule = { kind = "above_twin',
        'directoin = "x"\nrule = { kind = "above_twin',
        "'table1-overlap': unknown field 'directoin'",
    ),
    (
        COMMON,
        'kind = "trend", last',
        'kind = "tend", last',
        "'convergence-llama2-7b' rule: unknown kind 'tend'",
    ),
    (
        COMMON,
        'kind = "bound"',
        'kind = "bind"',
        "'table1-overlap': the field 'kind' should be .*, not 'bind'",
    ),
    (COMMON, "supported_above = 0.8,", "", "'table1-overlap' rule: the field 'supported_above' is missing"),
    (
        COMMON,
        "supported_above = 0.8,",
        "supported_above = nan,",
        "'supported_above' should be a finite number",
    ),
    (
        COMMON,
        "supported_above = 0.8,",
        'supported_above = "0.8",',
        "'supported_above' should be a valid number",
    ),
    (
        COMMON,
        "supported_above = 0.8,",
        "supported_above = true,",
        "'supported_above' should be a valid number",
    ),
    (COMMON, ", detectable = ", ", detected = ", "'table1-commonality' rule: the field 'detectable'"),
    (COMMON, "detectable = ", "detectable = -", "'detectable' should be greater than .* 0, not -"),
    (
        COMMON,
        "refuted_below = 0.5",
        "detectable = 0.1, refuted_below = 0.5",
        "'detectable' rules of this kind",
    ),
    (COMMON, 'kind = "absolute"', 'kind = "relative"', "'table1-overlap' margin: the field 'kind' should be"),
    (COMMON, 'overlap_claim = "table1-overlap"', 'overlap_claim = "tabel1"', "'tabel1' is no claim"),
    (COMMON, '"eq8-dispersion"', '"eq8"', "claim 'table1-overlap': there is no ambiguity 'eq8'"),
    (COMMON, 'controls = ["control-layer', 'controls = ["layer', "no control 'layer-matched-random'"),
    (COMMON, 'guards = [\n  "table1', 'guards = [\n  "t1', "there is no claim 't1-overlap'"),
    (
        COMMON,
        'quote = "',
        'quote = "' + "word " * 25,
        "'table1-overlap' sources: the field 'quote' has more than 25 words",
    ),
    (COMMON, 'document = "paper"', 'document = "book"', "sources: there is no document 'book'"),
    (COMMON, 'group = "D-table1"', 'group = "D"', "'table1-overlap': there is no group 'D'"),
    (
        COMMON,
        'printed = "96.42"',
        "printed = 96.42",
        "numbers: the field 'printed' must be the digits .*, not 96.42",
    ),
    (COMMON, 'table = "table1", quantity', 'table = "table9", quantity', "no printed cell has"),
    (COMMON, 'table = "table1", quantity', 'table = "table1", quantum', "unknown coordinate 'quantum'"),
    (COMMON, "[[definition]]", "[[claim]\n", "commonality.toml: not valid TOML"),
    (COMMON, "[[definition]]", "[paper]\n[[definition]]", r"\[paper\] stands in another file already"),
    (COMMON, "[[definition]]", "[[definitoin]]", "unknown field 'definitoin'"),
    (COMMON, "[[claim]]", "group = 3\n[[claim]]", r"write group as \[\[group\]\]"),
    (
        TABLES,
        '"91.10"',
        "91.10",
        "rows: the field 'overlap' must be the digits as printed, as a string, not 91.1",
    ),
    (TABLES, '"91.10"', '"91.10%"', "digits as printed, as a string, not '91.10%'"),
    (TABLES, '"91.10", ', "", "row 'overlap': 5 numbers are expected"),
    (TABLES, '"random 1" =', '"random1" =', "row 'random1': must name method and epoch"),
    (
        TABLES,
        '"random 1" =',
        '"random one" =',
        "row 'random one': the field 'epoch' should be a valid integer",
    ),
    (TABLES, "second_in.paper =", "second_in.leaflet =", "there is no document 'leaflet'"),
    (TABLES, '"located 1:gsm8k"]', '"located 2:gsm8k"]', "there is no cell 'located 2:gsm8k'"),
    (TABLES, "/sigma3", "/sigma6", "the cell table2/llama2-7b/sigma6/random/1/gsm8k occurs twice"),
    (HEAD, "level = 0.05", "level = 5.0", r"\[paper\]: the field 'level' should be less than .* 1, not 5.0"),
    (HEAD, "least-loss = 0.05", 'least-loss = "5 %"', r"\[margins\]: the field 'least-loss'"),
    (HEAD, "models = ", "model = ", r"group 'A-fidelity' printed_for: the field 'models' is missing"),
    (HEAD, "sigmas = [6]", "sigmas = [-6]", r"group 'D-table1': the field 'sigmas' should be greater"),
    (HEAD, 'title = "Fidelity', 'titel = "Fidelity', "group 'A-fidelity': the field 'title' is missing"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_file_is_refused_by_name(name: str, old: str, new: str, message: str) -> None:
    with pytest.raises(PaperError, match=message) as caught:
        parse_paper(changed(name, old, new))
    assert str(caught.value).startswith(KEY)
    assert "\n" not in str(caught.value)


def test_an_entry_is_named_with_its_own_file() -> None:
    with pytest.raises(
        PaperError, match=r"^capability_localization/commonality\.toml claim 'table1-overlap'"
    ):
        parse_paper(changed(COMMON, '"eq8-dispersion"', '"eq8"'))


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"there is .*capability_localization"):
        load_paper("capability-localisation")
    with pytest.raises(UnknownNameError, match=r"'table1-overlop'.*table1-overlap"):
        PAPER.claim("table1-overlop")


def test_margins_are_the_papers_unless_a_claim_has_its_own() -> None:
    own = 'margins = { least-loss = 0.07 }\nrule = { kind = "above_twin'
    paper = parse_paper(changed(COMMON, 'rule = { kind = "above_twin', own))
    assert paper.claim("table1-overlap").margins["least-loss"] == 0.07
    assert (
        paper.claim("table1-iou").margins["least-loss"]
        == PAPER.claim("table1-iou").margins["least-loss"]
        == 0.05
    )
    assert isinstance(PAPER.claim("fidelity-kn-overlap").margins["fewest-facts"], int), (
        "a count, in messages too"
    )


def test_headline_claims_have_short_labels_of_their_own() -> None:
    labels = [claim.headline for claim in PAPER.claims.values() if claim.headline]
    assert 10 <= len(set(labels)) == len(labels) <= 15
    changed = {**FILES, f"{KEY}/fidelity.toml": FILES[f"{KEY}/fidelity.toml"].replace(labels[0], "x" * 61)}
    with pytest.raises(
        PaperError, match=r"claim 'fidelity-kn-overlap'.*'headline' must be a label of at most 60"
    ):
        parse_paper(changed)


def test_sigmas_are_those_of_the_group_unless_a_claim_has_its_own() -> None:
    own = 'sigmas = [2, 4]\nrule = { kind = "above_twin'
    paper = parse_paper(changed(COMMON, 'rule = { kind = "above_twin', own))
    assert paper.claim("table1-overlap").sigmas == (2, 4)
    assert paper.claim("table1-iou").sigmas == (6,)
    assert (
        paper.claim("table3-erase").sigmas == (3, 6, 12) and paper.claim("fidelity-kn-overlap").sigmas == ()
    )


def test_what_a_claim_counts_as_follows_from_its_rule_and_sources_unless_it_says() -> None:
    standing = {name: claim.standing for name, claim in PAPER.claims.items()}
    assert standing["table1-overlap"] == "empirical" and standing["fidelity-conclusion"] == "derived"
    assert standing["print-eq7-weights"] == "print" and standing["control-untrained-overlap"] == "control"
    assert standing["general-cnl-outperforms"] == "summary"
    own = 'repeats = "table1-iou"\nrule = { kind = "above_twin'
    assert (
        parse_paper(changed(COMMON, 'rule = { kind = "above_twin', own)).claim("table1-overlap").standing
        == "repeats"
    )
    own = 'standing = "reading"\nrule = { kind = "above_twin'
    assert (
        parse_paper(changed(COMMON, 'rule = { kind = "above_twin', own)).claim("table1-overlap").standing
        == "reading"
    )
    with pytest.raises(PaperError, match="'table1-overlap' repeats: there is no claim 'none'"):
        parse_paper(
            changed(COMMON, 'rule = { kind = "above_twin', 'repeats = "none"\nrule = { kind = "above_twin')
        )
