"""Options are checked as a whole, before any work; each wrong one is named in one line with its remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.audit.cells import cell_parameters
from caploc.audit.claims import ClaimTest, Reference, experiments
from caploc.audit.running import data_hashes
from caploc.audit.settings import AuditSettings, read_settings
from caploc.audit.text import visible
from caploc.defaults import DEFAULTS
from caploc.model.registry import REGISTRY
from caploc.tests.audit.conftest import ClaimsRun

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sigma=0", "--sigma 0: must be a number above 0, such as 6"),
        ("--sigma=6,-3", "--sigma -3: must be a number above 0"),
        ("--sigma=nan", "--sigma nan: must be a number above 0"),
        ("--sigma=inf", "--sigma inf: must be"),
        ("--sigma=six", "--sigma six: must be"),
        ("--samples=15", "--samples 15: must be a whole number of at least 16"),
        ("--samples=2.5", "--samples 2.5: must be a whole number"),
        ("--draws=19", "--draws 19: must be a whole number of at least 20"),
        ("--seed=-1", "--seed -1: must be a whole number of at least 0"),
        ("--steps=0", "--steps 0: must be a whole number of at least 1"),
        ("--quadrature=simpson", "--quadrature simpson: *unknown; choose one of paper, trapezoid, gauss-legendre"),
        ("--reading=scope", "--reading scope: must be SETTING=ALTERNATIVE, as in scope=layer"),
        ("--reading=scope=row", "--reading scope=row: scope 'row' is unknown; choose one of model, layer"),
        ("--reading=zoom=2", "--reading zoom=2: the paper leaves no setting 'zoom' open; choose one of dispersion, "),
        ("--paper=nowhere", "--paper nowhere: unknown paper 'nowhere'; there is *, or give the path"),
        ("--dtype=int8", "--dtype int8: unknown; choose one of auto, float32"),
        ("--device=gpu", "--device gpu: must be auto, cpu, cuda, cuda:N or several: cuda:0,1"),
        ("--data-root=nowhere", "--data-root nowhere: no such folder"),
        ("--store=file.txt", "--store file.txt: is a file; give a folder"),
        ("--dataset=mine=nowhere.jsonl", "--dataset mine=nowhere.jsonl: no such file"),
        ("--dataset=m ine=file.txt", "--dataset m ine=file.txt: the name may hold only ASCII letters"),
        ("--dataset=gsm9k", "--dataset gsm9k: unknown; did you mean gsm8k"),
        ("--dataset=", "--dataset : unknown; there is "),
        ("--model=tiny-lama", "--model tiny-lama: no known name, no folder, no hub id*; did you mean tiny-llama"),
        ("--model=file.txt", "--model file.txt: is a file; give the folder that holds config.json"),
        ("--model=meta-llama/Llama-2-7b-hf", "--model meta-llama/Llama-2-7b-hf: a hub model needs its commit*@COMMIT"),
        ("--html=report.jsonl", "--html report.jsonl: the ending .jsonl is the ledger's"),
        ("--html=claims", "--html claims: is a folder; give a file in it"),
        ("--html=file.txt/x.html", "--html file.txt/x.html: */file.txt is no folder"),
        ("--html=~no-such-user/x.html", "--html ~no-such-user/x.html: there is no user no-such-user; ./~no-such-user"),
        ("--model=", "--model '': names nothing; give a path"),
        ("--model=tiny-llama,", "--model '': names nothing"),
        ("--paper= ", "--paper '': names nothing"),
        ("--store=", "--store '': names nothing"),
        ("--store=file.txt/x", "--store file.txt/x: */file.txt is a file; give a folder"),
        ("--store=~no-such-user/x", "--store ~no-such-user/x: there is no user no-such-user"),
        ("--data-root=", "--data-root '': names nothing"),
        ("--data-root=~no-such-user", "--data-root ~no-such-user: there is no user"),
        ("--dataset=mine=", "--dataset mine= '': names nothing"),
        ("--dataset=mine=~no-such-user/x", "--dataset mine= ~no-such-user/x: there is no user"),
        (f"--model={'x' * 5000}", "--model xxx*x... (5,000 characters): cannot be read (File name too long)"),
        (f"--seed={10**26}", f"--seed {10**26}: must be a whole number of at most 9,223,372,036,854,775,807"),
        (f"--seed={'9' * 5000}", "--seed 999*9... (5,000 characters): must be a whole number of at least 0"),
        ("--seed=one", "--seed one: must be a whole number of at least 0"),
        ("--samples=0", "--samples 0: must be a whole number of at least 16"),
        ("--draws=0", "--draws 0: must be a whole number of at least 20"),
        (f"--draws={10**26}", f"--draws {10**26}: must be a whole number of at most 1,000,000"),
        ("--sigma=-1", "--sigma -1: must be a number above 0"),
        ("--sigma=", "--sigma : must be a number above 0"),
        ("--device=cuda:1234567890", "--device cuda:1234567890: must be auto, cpu, cuda, cuda:N or several: cuda:0,1"),
        ("--scoring=gsm8k", "--scoring gsm8k: must be NAME=KIND, as in sums=tokens"),
        ("--scoring=sums=tokens", "--scoring sums=tokens: sums is not among the run's datasets (gsm8k, "),
        ("--scoring=gsm8k=nice", "--scoring gsm8k=nice: unknown kind; choose one of number, label, "),
        ("--scoring=imdb=label,imdb=exact", "--scoring imdb=exact: imdb is given label too; give it once"),
        ("--dtype=a\nb", "--dtype a?nb: unknown; choose one of"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line(claims_run: ClaimsRun, argument: str, message: str) -> None:
    (claims_run.pytester.path / "file.txt").write_text("", encoding="ascii")
    claims_run.write("def test_never_runs(): ...")
    run = claims_run.pytester.runpytest_inprocess(argument)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: {message}*"])
    assert len([line for line in run.stderr.lines if line]) == 1
    assert not (claims_run.pytester.path / "reports").exists()


@pytest.mark.parametrize(
    ("value", "why"), [("~no-such-user/x", "there is no user"), ("file.txt", "is a file; give")]
)
def test_the_store_of_the_environment_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("", encoding="ascii")
    monkeypatch.setenv("CAPLOC_STORE", value)
    with pytest.raises(pytest.UsageError, match=f"^CAPLOC_STORE {value}: {why}"):
        read()
    assert read(store="store").store == "store"  # the option goes first


def test_every_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "place")
    for name in ("place", "toy"):
        (tmp_path / name).mkdir()
    (tmp_path / "place" / "mine.jsonl").write_text("{}", encoding="ascii")
    (tmp_path / "toy" / "paper.toml").write_text(
        '[paper]\nkey = "toy"\ntitle = "t"\nreference = "r"\nlevel = 0.05\n[documents]\npaper = "p"\n',
        encoding="ascii",
    )
    found = read(
        data_root="~/place", store="~/$PLACE/store", paper=["~/toy"],
        model=["tiny-llama,~/place"], dataset=["mine=~/${PLACE}/mine.jsonl"],
    )  # fmt: skip
    place = str(tmp_path / "place")
    assert (found.data_root, found.store, found.papers) == (place, f"{place}/store", (str(tmp_path / "toy"),))
    assert found.models[1].model == place
    assert found.datasets[0].path == f"{place}/mine.jsonl"
    with pytest.raises(pytest.UsageError, match="the paper toy is given twice, as "):
        read(paper=[str(tmp_path / "toy"), f"{place}/../toy"])


def test_the_data_root_may_hold_datasets_of_ones_own(tmp_path: Path) -> None:
    """As two parts, which a single file cannot be; what they hold is hashed, and tells facts from other items."""
    for name, record in (
        ("mine", '{"prompt": "p", "answer": " a"}'),
        ("who", '{"prompt": "p", "answer": " a", "subject": "s"}'),
    ):
        for part in ("train", "test"):
            (tmp_path / f"{name}_{part}.jsonl").write_text(record + "\n", encoding="ascii")
    found = read(data_root=str(tmp_path), dataset=["mine,who,gsm8k"])
    assert [(one.label, one.path, one.facts) for one in found.datasets] == [
        ("mine", None, False),
        ("who", None, True),
        ("gsm8k", None, False),
    ]
    (tmp_path / "gsm8k_train.jsonl").write_text("{}\n", encoding="ascii")  # hashed as ever
    hashed = {name: [Path(path).name for path in files] for name, files in data_hashes(found).items()}
    own = {name: [f"{name}_train.jsonl", f"{name}_test.jsonl"] for name in ("mine", "who")}
    assert hashed == {"gsm8k": ["gsm8k_train.jsonl"], **own}
    with pytest.raises(pytest.UsageError, match=r"--dataset yours: unknown; there is .*, or in --data-root"):
        read(data_root=str(tmp_path), dataset=["yours"])


LISTS = ("model", "dataset", "paper", "sigma", "reading")
PLAIN = "tiny-llama gsm8k 6 0 -1 nan 1e999 ~ ~root/x ~nobody-here . / x= =x a=. scope=layer cuda:0 float64 /dev/null/x"
ODD = ["\ud800", "a\u2028b\nc", "\0", "a" * 300, "5" * 5000]
VALUES = st.one_of(
    st.text(max_size=40),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from([*PLAIN.split(), *ODD]),
).flatmap(lambda one: st.sampled_from([one, f" {one}", f"{one},", f"{one}/{one}", f"mine={one}"]))


@given(
    st.sampled_from([*LISTS, "data_root", "samples", "draws", "store", "device", "dtype", "seed", "steps"]),
    VALUES,
)
@settings(max_examples=150, deadline=None)
def test_any_value_is_taken_or_refused_in_one_line(name: str, value: str) -> None:
    try:
        found = read(**{name: [value] if name in LISTS else value})
    except pytest.UsageError as error:
        (line,) = str(error).splitlines()
        assert (
            line.startswith(f"--{name.replace('_', '-')} ") and ": " in line and visible(line, 10_000) == line
        )
    else:
        labels = [parameter.id for parameter in cells(found)]
        assert len(set(labels)) == len(labels) and "".join(labels).isascii()
        assert all(visible(line, 10_000) == line for line in found.departures)


def cells(read: AuditSettings, *declared: Any, reported: tuple[float, ...] = (), **options: Any) -> list[Any]:
    return cell_parameters(ClaimTest("", None, *declared, **options), read, lambda _: (), reported)


def labels(parameters: Sequence[Any]) -> list[str]:
    return [parameter.id for parameter in parameters]


def test_repeats_and_comma_lists_make_one_grid() -> None:
    chosen = read(
        model=["tiny-llama,tiny-gptj", "tiny-llama"],
        dataset=["gsm8k", "imdb,gsm8k"],
        sigma=["6,3", "6.0", "2.5"],
    )
    assert labels(cells(chosen)) == [
        f"{model}-{dataset}-s{sigma}"
        for model in ("tiny-llama", "tiny-gptj")
        for dataset in ("gsm8k", "imdb")
        for sigma in ("6", "3", "2.5")
    ]
    assert labels(cells(chosen, "model"))[:2] == ["tiny-llama-s6", "tiny-llama-s3"]


def test_defaults_are_the_embedded_models_and_the_papers_own_on_a_gpu() -> None:
    chosen = read()
    parameters = cells(chosen)
    assert len(parameters) == 5 * 5
    assert labels(cells(chosen, "model", reported=(3.0, 12.0)))[:2] == ["tiny-llama-s3", "tiny-llama-s12"]
    marks = {parameter.id: {mark.name for mark in parameter.marks} for parameter in parameters}
    assert marks["tiny-llama-gsm8k-s6"] == set()
    assert marks["llama2-7b-gsm8k-s6"] >= {"gpu", "min_gb", "gated", "network"}
    assert "gated" not in marks["gptj-6b-imdb-s6"]
    assert not chosen.departures


def test_a_cell_needs_the_memory_of_its_own_experiment() -> None:
    """By what is computed and in which dtype: circuits and edits in float32 whatever the run's."""

    def least(experiment: Reference, *, over: Any = "model", **asked: Any) -> int:
        settings = read(model=["llama2-7b"], sigma=["6"], dataset=["gsm8k"], **asked)
        (one,) = cell_parameters(ClaimTest("", experiment, over), settings, lambda _: ())
        return next(int(mark.args[0]) for mark in one.marks if mark.name == "min_gb")

    entry = REGISTRY["llama2-7b"]
    located, trained = experiments.erasure.erase, experiments.enhancement.located_beats_random
    assert least(located) == entry.min_gb("attribution") < 24 < least(experiments.reliability_kc.anything)
    assert least(trained) == entry.min_gb("training") > least(located)
    assert least(located, dtype="float32") == entry.min_gb("attribution", 4) > 2 * 13
    assert (
        least(experiments.fidelity.overlap(method="kn"))
        == least(located)
        < least(experiments.fidelity.ordering)
    )


def test_a_claim_about_one_dataset_keeps_to_it() -> None:
    parameters = cells(read(model=["tiny-llama"]), dataset="gsm8k")
    assert labels(parameters) == ["tiny-llama-gsm8k-s6"]
    left_out = cells(read(model=["tiny-llama"], dataset=["imdb"], sigma=["6"]), dataset="gsm8k")
    assert labels(left_out) == ["tiny-llama-gsm8k-s6"]
    assert "add --dataset gsm8k" in left_out[0].marks[0].kwargs["reason"]


def test_folders_and_hub_ids_get_ascii_labels_of_their_own(tmp_path: Path) -> None:
    folders = [
        tmp_path / "a" / "mödel 1",
        tmp_path / "b" / "mödel 1",
        tmp_path / "llama2-7b",
        tmp_path / "x,y",
    ]
    for folder in folders:
        folder.mkdir(parents=True)
    chosen = read(model=[*map(str, folders), f"ORG/model@{COMMIT}"])
    assert [model.label for model in chosen.models] == [
        "m-del-1",
        "m-del-1-2",
        "llama2-7b-local",
        "x-y",
        "model",
    ]
    assert [model.model for model in chosen.models][:4] == [str(folder) for folder in folders]
    assert not any(model.embedded or model.gpu for model in chosen.models)


def test_own_datasets_and_every_decisive_option_are_departures(tmp_path: Path) -> None:
    file = tmp_path / "a,b=c.jsonl"
    file.write_text("{}", encoding="ascii")
    chosen = read(dataset=[f"mine={file}"], seed="1", steps="7", device="cpu", dtype="float32")
    assert chosen.datasets[0].path == str(file)
    assert chosen.departures == ("--seed 1", "--steps 7", f"--dataset mine={file}")
    with pytest.raises(pytest.UsageError, match="the name mine is given twice"):
        read(dataset=[f"mine={file}", f"mine={tmp_path}/../{tmp_path.name}/a,b=c.jsonl"])


def test_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caploc.audit.settings._cuda", lambda: True)
    chosen = read()
    assert chosen.placement("tiny-llama") == ("cpu", "float32")
    assert chosen.placement("llama2-7b") == ("cuda", "bfloat16")
    assert read(device="cpu", dtype="bfloat16").placement("llama2-7b") == ("cpu", "bfloat16")
    monkeypatch.setattr("caploc.audit.settings._cuda", lambda: False)
    assert chosen.placement("llama2-7b") == ("cpu", "float32")


def test_help_teaches_and_the_plugin_is_cheap_to_import() -> None:
    heavy = "'torch', 'transformers', 'matplotlib', 'datasets', 'scipy', 'hypothesis', 'pydantic', 'jinja2'"
    code = f"import sys, caploc.audit.plugin; print([name for name in ({heavy},) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
