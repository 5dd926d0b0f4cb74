"""What the checks find in the paper as it is printed: the figures of an audit that was made by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from caploc.consistency import CHECKS
from caploc.findings import Count, Effect, Finding, Outcome
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.tests.consistency.changed import finding_of

PAPER = load_paper("capability_localization")

# claim -> violations, things checked
FOUND = {
    "print-table2-averages": (1, 27),
    "print-table3-averages": (0, 14),
    "print-table3-changes": (0, 48),
    "print-gsm8k-granularity": (0, 41),
    "print-emotion-granularity": (6, 41),
    "print-code25k-granularity": (38, 41),
    "print-evaluation-counts": (2, 3),
    "print-table1-iou": (0, 15),
    "print-table1-quoted-pair": (1, 1),
    "print-table1-chebyshev": (0, 15),
    "print-table1-repeats": (0, 6),
    "print-abstract-overlap": (0, 1),
    "print-fidelity-numbers": (3, 3),
    "print-fidelity-chance": (1, 1),
    "print-rewrites": (1, 1),
    "print-chain-share": (1, 1),
    "print-kn-percentages": (1, 4),
    "print-kn-direction": (1, 2),
    "print-kn-ipp": (1, 1),
    "print-rome-ipp": (0, 1),
    "print-kc-ipp": (0, 1),
    "print-cr-same-task": (2, 2),
    "print-cr-bound": (3, 3),
    "print-cr-order": (2, 2),
    "print-eq7-weights": (1, 1),
    "print-eq8-unit": (4, 5),
    "print-eq12-zero": (3, 3),
    "print-sigma-labels": (1, 9),
    "print-share-table1": (1, 2),
    "print-share-both-sigmas": (4, 6),
    "print-share-rest": (0, 1),
    "print-sigma-monotone": (3, 8),
    "print-gsm8k-guessing": (20, 22),
    "print-located-best-average": (0, 9),
    "print-located-significant": (17, 36),
    "print-erasure-significant": (0, 6),
    "print-erasure-room": (2, 6),
    "print-random-noise": (0, 12),
    "print-marks-wrong": (1, 59),
    "print-marks-missing": (14, 72),
    "print-tables-agree": (0, 257),
    "print-models-in-tables": (3, 9),
    "print-other-datasets": (3, 3),
    "general-limitations-models": (3, 3),
}
# claim -> what its notes say
SAID = {
    "print-table2-averages": [
        "28.95 (Table 2, Llama2-7B, sigma 6, all but located, epoch 1, average) cannot be the mean",
        "of 25.35, 19.06 and 44.43",
        "which is 29.61",
        "23.36 for GSM8K instead of 25.35",
        "32.00, 38.71 and 48.50 is 39.7367; it is the result with its further digits cut off",
    ],
    "print-table3-averages": ["0.00, 0.33 and 21.95 is 7.4267"],
    "print-table3-changes": ["-0 ("],
    "print-gsm8k-granularity": ["All 41 are shares of 4800 items, as means of 3 runs of 1600 would be"],
    "print-emotion-granularity": [
        "6 of 9 Emotion scores fail: 14.99, 19.06, 39.93, 49.99, 23.57 and 44.93.",
        "k / 7200, as means of 3 runs",
    ],
    "print-code25k-granularity": ["explains all 41 Code25K scores is 8000"],
    "print-evaluation-counts": ["1600 is the smallest", "2400 is the smallest", "no shares of 1319"],
    "print-table1-iou": ["0.930 to 1.000", "in 12 of 15 cells"],
    "print-table1-quoted-pair": [
        "at most 93.09",
        "96.42 is the overlap of Table 1, Llama2-7B, GSM8K.",
        "95.95 is the IoU of Table 1, Llama2-7B, Emotion.",
    ],
    "print-table1-chebyshev": ["11.11 % at sigma 3, 2.78 % at sigma 6 and 0.69 % at sigma 12", "2e-07 %"],
    "print-table1-repeats": [
        "Emotion has a neuron ratio of 0.19 in every model",
        "Code25K has a neuron ratio of 0.11 in every model",
        "91.10 occurs 2 times",
        "83.62 occurs 2 times",
    ],
    "print-abstract-overlap": ["94.26 for Llama2-13B and 95.66 for GPTJ-6B", "from 83.62 to 98.32"],
    "print-fidelity-numbers": [
        "KN: 27.5 in Section 1 and 37.3 in Section 3.1 and the poster.",
        "ROME in Section 1 and KN in Section 3.1 and the poster.",
    ],
    "print-fidelity-chance": ["10.7 %", "0.0033 %", "11184 times its chance level"],
    "print-rewrites": ["The original and 4 rewrites are the 5 variants compared."],
    "print-chain-share": ["1.6 in Section 3.1 and 2.6 in Section 1", "without that condition"],
    "print-kn-percentages": [
        "100.2 %, more than rounding can",
        "99.8 %",
        "72.4 and 82.6 would be 72.6 and 82.4",
    ],
    "print-kn-similar-to-random": [
        "from n = 77 on",
        "from n = 127 on",
        "+12.8 points",
        "-10.2 points",
        "z is -5.5",
    ],
    "print-kn-direction": ["Zeroed, located neurons leave 72.4 %", "-10.2 points"],
    "print-kn-ipp": ["which is 12.8", "scored 73.7", "absolute differences is 11.40", "the mean is 1.4"],
    "print-kc-ipp": ["leaves 1.8 %"],
    "print-cr-bound": ["71566 in each sample", "33489 that all 1000 samples", "2189 times", "0.00334 %"],
    "print-eq7-weights": ["1.0526 times", "1.080 for alpha^2, 1.139 for exp(-5 alpha)"],
    "print-eq8-unit": ["99.904 %", "99.020 %", "90.355 %", "28.548 %", "0.182 %"],
    "print-eq12-zero": ["0.211", "4.605", "13.816"],
    "print-sigma-labels": ["Table 2, GPTJ-6B, sigma 6: the poster prints the 36 numbers under sigma 3."],
    "print-share-table1": ["0.222 %", "0.193 %", "0.154 %", "0.147 %"],
    "print-share-both-sigmas": ["+24.29 points", "+18.50 points", "+11.80 points"],
    "print-sigma-monotone": [
        "2.50 is lower than 5.38, though fewer neurons are erased (z = 5.1 at n = 2400)"
    ],
    "print-gsm8k-guessing": ["20 do not differ", "32.00 (", "27.38 ("],
    "print-located-best-average": ["6 of 9 on GSM8K, 5 of 9 on Emotion and 9 of 9 on Code25K"],
    "print-located-significant": [
        "located against random: 5 higher, 4 no different.",
        "before Holm's correction 8 no different, 1 lower",
        "before Holm's correction 5 higher, 3 lower, 1 no different",
        "in all of which random is at most 5.25 %",
        "gains 11.99 of the 13.48 points",
    ],
    "print-erasure-significant": [
        "between -7.2 and -29.2",
        "0.00 (Table 3, Llama2-7B, sigma 3, located, Emotion)",
    ],
    "print-erasure-room": ["0.38 (Table 3, Llama2-13B, base, GSM8K, 6 of 1600 items)"],
    "print-random-noise": ["+0.62 points", "+1.79 points"],
    "print-marks-wrong": ["The paper underlines 52.53", "number 1 of three"],
    "print-marks-missing": [
        "10 in Table 2, Llama2-7B, sigma 6",
        "The poster: 2 in Table 2, Llama2-7B, sigma 3",
    ],
    "print-models-in-tables": ["Llama2-13B is missing from Table 2.", "GPTJ-6B is missing from Table 3."],
    "print-other-datasets": ["11.18 points", "-3.31 (Llama2-7B, sigma 6)", "the models share no pattern"],
    "general-limitations-models": [
        "Llama2-13B, though the limitations say that no model but GPT2 was tried and that none"
    ],
}


def found(claim: str) -> Finding:
    return finding_of(claim, PAPER)


@pytest.mark.parametrize("claim", FOUND)
def test_violations_are_those_found_by_hand(claim: str) -> None:
    finding = found(claim)
    value, measured = finding.measurement.value, finding.measurement
    assert isinstance(value, Count) and value.unit == "count"
    assert (value.estimate, measured.n) == FOUND[claim]
    assert len(measured.notes) >= (value.estimate or 0)
    expected = Outcome.REFUTED if value.estimate else Outcome.SUPPORTED
    assert judge(PAPER.claim(claim), finding).outcome is expected


@pytest.mark.parametrize("claim", SAID)
def test_notes_name_the_numbers(claim: str) -> None:
    notes = " ".join(found(claim).measurement.notes)
    for words in SAID[claim]:
        assert words in notes


def test_equivalence_of_located_and_random_neurons_is_refuted_by_the_printed_shares() -> None:
    finding = found("print-kn-similar-to-random")
    assert judge(PAPER.claim(finding.claim), finding).outcome is Outcome.REFUTED
    value, parts = finding.measurement.value, finding.measurement.of(Effect)
    assert value is not None and value.estimate == pytest.approx(0.128)
    assert list(parts) == ["doubled", "zeroed"]
    assert all((one.p or 0) > 0.99 for one in parts.values())
    doubled, zeroed = (one.interval90 or (0, 0) for one in parts.values())
    assert doubled[0] > 0.05 and zeroed[1] < -0.05


def test_protocol_is_our_default() -> None:
    measured = found("general-protocol-counts").measurement
    assert measured.value is not None and measured.value.estimate == 0
    assert measured.n == 14
    assert measured.notes[-1] == (
        "Of data and figures that no setting here chooses: gsm8k-items 8,000, code25k-items 25,000 and figure4-window"
        " 100."
    )


def test_every_claim_of_the_group_has_its_check() -> None:
    group = {claim.id for claim in PAPER.claims.values() if claim.group == "L-consistency"}
    assert group <= set(CHECKS) <= set(PAPER.claims)
    assert all(claim.startswith(("print-", "general-")) for claim in CHECKS)
    assert set(FOUND) | {"print-kn-similar-to-random", "general-protocol-counts"} == set(CHECKS)


def test_numbers_of_one_place_are_the_same_in_every_claim() -> None:
    seen: dict[tuple[str, str, str], set[str]] = {}
    for claim in PAPER.claims.values():
        if claim.group == "L-consistency":
            here: dict[tuple[str, str, str], set[str]] = {}
            for number in claim.numbers:
                here.setdefault((number.key, number.document, number.at), set()).add(number.printed)
            for place, digits in here.items():
                assert seen.setdefault(place, digits) == digits, place


def test_notes_are_sentences_without_markup() -> None:
    for claim in CHECKS:
        for note in found(claim).measurement.notes:
            assert note[-1] in ".", note
            assert "  " not in note and "\n" not in note and note.isascii(), note


def test_no_check_needs_torch_before_the_protocol() -> None:
    code = "import sys, caploc.consistency; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
