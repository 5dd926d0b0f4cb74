"""Data that change while a run reads them: no report speaks of two contents by one name."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from caploc.datasets import load_examples
from caploc.errors import DatasetError
from caploc.fingerprints import content_hashes, pinned
from caploc.tests.audit.conftest import ClaimsRun

# whoever reads first replaces the file for those who come later
SWAPPING = """
from pathlib import Path

def read(study, cell, claim):
    found = study.drawn_from("mine", "locate", None).examples
    try:
        open("swapped", "x").close()
        Path(FILE).write_text(Path(FILE).read_text().replace("one", "other"))
    except FileExistsError:
        pass
    return overlap(.85, .95, settings={"data_fingerprint": found[0].prompt})

@claim("table1-overlap", measured(read), over="model")
def test_overlap(): ...

@claim("table1-iou", measured(read), over="model")
def test_iou(): ...
"""


def written(folder: Path) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"one {i}", "answer": " a"}) + "\n" for i in range(20)))
    return file


@pytest.mark.parametrize("also", [[], ["-n2"]], ids=["alone", "two workers"])
def test_a_file_that_is_swapped_during_a_run_is_refused(
    claims_run: ClaimsRun, tmp_path: Path, also: list[str]
) -> None:
    file = written(tmp_path)
    content = sha256(file.read_bytes()).hexdigest()
    claims_run.write(f"FILE = {str(file)!r}\n" + SWAPPING)
    run = claims_run("--seed=1", "--device=cpu", f"--dataset=mine={file}", *also)
    lines = claims_run.ledger()
    assert lines[0]["data"]["mine"] == {str(file.resolve()): content}
    findings = [
        line["finding"]["settings"]["data_fingerprint"] for line in lines if line["type"] == "finding"
    ]
    assert findings and all(one.startswith("one") for one in findings)
    if not also:  # two workers may both have read it before
        assert len(findings) == 1
        run.stdout.fnmatch_lines(["*mine.jsonl: its content has changed since this run began; start again*"])
    assert claims_run.summary()["provenance"]["data"].keys() >= {"mine", "gsm8k"}


def test_what_is_pinned_must_not_change(tmp_path: Path) -> None:
    file = written(tmp_path)
    hashes = content_hashes([file, tmp_path / "absent.jsonl"])
    assert hashes == {str(file): sha256(file.read_bytes()).hexdigest()}
    (tmp_path / "link.jsonl").symlink_to(file)
    with pinned(hashes):
        before = load_examples("mine", file)
        file.write_text(file.read_text() + "\n")
        for path in (file, tmp_path / "link.jsonl"):
            with pytest.raises(DatasetError, match=r"l: its content has changed since this run began"):
                load_examples("mine", path)
    assert load_examples("mine", file) == before
