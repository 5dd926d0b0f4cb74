"""How a claim test ends, and what the terminal, the ledger and the exit status say of it."""

from __future__ import annotations

import pytest

from caploc.tests.audit.conftest import ClaimsRun

EVERY_END = """
@claim("table1-overlap", measured(overlap(0.85, 0.9)))
def test_supported(): ...

@claim("table1-overlap", measured(overlap(0.1, 0.2)))
def test_refuted(): ...

@claim("table1-overlap", measured(overlap(0.4, 0.9)))
def test_inconclusive(): ...

@claim("table1-overlap", measured(not_run("emotion.jsonl is not in the data root")))
def test_not_run(): ...

def fail(study, cell, claim):
    raise RuntimeError("shapes differ")

@claim("table1-overlap", measured(fail))
def test_error(): ...
"""
# any option that changes numbers turns expectations off
OFF = ("--seed=1", "--dataset=gsm8k")


def test_each_end_is_told_apart(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERY_END)
    run = claims_run(*OFF, "-rA", "-k", "gsm8k")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.assert_outcomes(passed=1, failed=1, xfailed=1, skipped=1, errors=1)
    run.stdout.fnmatch_lines(
        [
            "caploc: seed 1, *expectations are off*--seed 1*",
            "all cells: 1 supported, 1 refuted, 1 inconclusive, 1 ended in an error, 1 not run: emotion.jsonl *",
            "  ERROR test_error?tiny-llama-gsm8k-s6?: call: RuntimeError: shapes differ",
            "ledger: reports/ledger.jsonl",
        ]
    )
    run.stdout.fnmatch_lines(
        ["*at the paper's number of samples: interval ?0.1, 0.2? lies below 0.5*", "REFUTED *test_refuted*"]
    )
    run.stdout.no_fnmatch_line("*audit.check()*")  # a verdict needs no traceback
    lines = {line["planned"]["test"].split("[")[0]: line for line in claims_run.ledger() if "planned" in line}
    ends = {name: (line["type"], line["status"]) for name, line in lines.items()}
    assert ends == {
        "test_supported": ("finding", "SUPPORTED"),
        "test_refuted": ("finding", "REFUTED"),
        "test_inconclusive": ("finding", "INCONCLUSIVE"),
        "test_not_run": ("finding", "NOT RUN"),
        "test_error": ("cell", "ERROR"),
    }
    assert lines["test_error"]["reason"] == "call: RuntimeError: shapes differ"


def test_words_replace_dots_when_verbose_and_the_summary_stays_when_quiet(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERY_END)
    claims_run(*OFF, "-v", "-k", "gsm8k").stdout.fnmatch_lines_random(
        [f"*::test_{word.lower().replace(' ', '_')}[[]*[]] {word}*" for word in
         ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "NOT RUN", "ERROR")]
    )  # fmt: skip
    claims_run(*OFF, "-q", "-k", "supported").stdout.fnmatch_lines(["*supported, 0 refuted, 0 inconclusive"])


def test_the_ledger_begins_with_where_the_numbers_come_from(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERY_END)
    claims_run(*OFF, "-k", "test_supported")
    first, *rest, last = claims_run.ledger()
    assert first["type"] == "provenance" and last["type"] == "summary"
    assert {"commit", "dirty", "python", "platform", "packages", "settings", "papers", "run"} <= first.keys()
    assert [len(digest) for digest in first["papers"].values()] == [64, 64]
    assert first["settings"]["seed"] == 1
    assert [line["type"] for line in rest] == ["planned", "finding"] * (len(rest) // 2) or rest
    assert last["counts"]["SUPPORTED"] == claims_run.summary()["counts"]["SUPPORTED"] > 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "ended without a finding"),
        ("audit.check(); audit.check()", "checked a second time"),
        ("audit.check(); assert 1 == 2", "assert 1 == 2"),
    ],
)
def test_misuse_is_an_error_of_ours_and_never_a_verdict(
    claims_run: ClaimsRun, body: str, message: str
) -> None:
    claims_run.write(
        f"by_hand = ClaimTest('table1-overlap', measured(overlap(.9, .95)))\n"
        f"@pytest.mark.claim(by_hand)\ndef test_it(audit, cell):\n    {body}\n"
    )
    run = claims_run("--seed=1")
    summary = claims_run.summary()
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert summary["counts"]["ERROR"] == 2
    assert all(message in reason for reason in summary["errors"].values())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("None", "'NoneType' object has no attribute"),
        ("Measurement('overlap', Bound(.9))", "lacks the part 'at full size'"),
        ("overlap(.1, .2, asides={'odd': object()})", "REFUTED"),
        ("overlap(.1, .2, parts={'odd': object()})", "'object' object has no attribute"),
    ],
)
def test_an_odd_measurement_is_an_error_unless_it_can_be_judged(
    claims_run: ClaimsRun, found: str, message: str
) -> None:
    claims_run.write(f"@claim('table1-overlap', measured({found}))\ndef test_it(): ...\n")
    claims_run("--seed=1")
    summary = claims_run.summary()
    if message == "REFUTED":  # an odd aside is shown as it is
        assert summary["counts"]["REFUTED"] == 2
    else:
        assert summary["counts"]["ERROR"] == 2
        assert all(message in reason for reason in summary["errors"].values())


def test_a_part_that_the_rule_reads_and_the_measurement_lacks_is_an_error(claims_run: ClaimsRun) -> None:
    claims_run.write("@claim('table1-commonality', measured(overlap(.9, .95)))\ndef test_it(): ...\n")
    claims_run("--seed=1")
    assert all("which its rule reads" in reason for reason in claims_run.summary()["errors"].values())
    assert claims_run.summary()["counts"]["ERROR"] == 2


def test_an_unknown_claim_is_an_error(claims_run: ClaimsRun) -> None:
    claims_run.write("@claim('table9', measured(overlap(.9, .95)))\ndef test_it(): ...\n")
    claims_run("--seed=1").stdout.fnmatch_lines(["*has no claim 'table9'; *"])


def test_a_folder_without_a_paper_is_a_usage_error(claims_run: ClaimsRun) -> None:
    claims_run.write("@claim('table1-overlap', measured(overlap(.9, .95)))\ndef test_it(): ...\n")
    claims_run.folder.rename(claims_run.folder.with_name("elsewhere"))
    run = claims_run("--seed=1")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*::test_it*: no paper has the name of its folder, 'elsewhere'; *--paper*"])


def test_a_skip_or_a_broken_fixture_is_accounted_for(claims_run: ClaimsRun) -> None:
    claims_run.write(
        """
@pytest.fixture
def broken():
    raise OSError("disk full")

@pytest.mark.usefixtures("broken")
@claim("table1-overlap", measured(overlap(.9, .95)))
def test_broken(): ...

@claim("table1-overlap", measured(lambda *_: pytest.skip("the hub repository is gated; log in with hf auth login")))
def test_skipped(): ...
"""
    )
    claims_run("--seed=1")
    summary = claims_run.summary()
    assert set(summary["errors"].values()) == {"setup: OSError: disk full"}
    assert set(summary["not_run"].values()) == {"the hub repository is gated; log in with hf auth login"}


def test_cells_that_an_early_stop_leaves_out_are_missing(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERY_END)
    run = claims_run("--seed=1", "-x")
    run.stdout.fnmatch_lines(["*MISSING*", "  MISSING test_inconclusive*: the run ended before it was run"])
    assert run.ret != pytest.ExitCode.OK
    assert len(claims_run.summary()["missing"]) == 10 - 3


def test_other_tests_leave_no_ledger(claims_run: ClaimsRun) -> None:
    claims_run.write("def test_plain(): ...\n")
    run = claims_run()
    assert run.ret == pytest.ExitCode.OK
    assert not (claims_run.pytester.path / "reports").exists()
    run.stdout.no_fnmatch_line("*= audit =*")


def test_a_ledger_that_cannot_be_written_is_said_before_any_work(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERY_END)
    (claims_run.pytester.path / "reports").write_text("a file where the folder should be", encoding="ascii")
    run = claims_run(*OFF)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        ["ERROR: cannot write the ledger *ledger.jsonl: *; name a writable place with --html"]
    )


def test_what_a_user_can_put_right_is_one_line_without_a_traceback(claims_run: ClaimsRun) -> None:
    claims_run.write(
        "from caploc.errors import DatasetError\n"
        "def fail(*_):\n    raise DatasetError('sums.jsonl:3: field answer is missing; add it')\n"
        "@claim('table1-overlap', measured(fail))\ndef test_it(): ...\n"
    )
    run = claims_run("--seed=1")
    run.stdout.fnmatch_lines(["sums.jsonl:3: field answer is missing; add it"])
    run.stdout.no_fnmatch_line("*def test_it*")
    assert claims_run.summary()["counts"]["ERROR"] == 2
