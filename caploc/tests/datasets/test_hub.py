"""The hub, played by a small local server: pinned commits, the cache, and every way in which it can fail."""

from __future__ import annotations

import io
import json
import time

import huggingface_hub.constants as hub_constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caploc.datasets import DATASETS, load_examples
from caploc.errors import DatasetError
from caploc.tests.datasets.conftest import GSM8K, RECORDS
from caploc.tests.hub_server import COMMIT, use_endpoint


def parquet(rows) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def serve(hub, name, train, test=None):
    dataset = DATASETS[name]
    content = dict(zip(dataset.hub_files.values(), [train, test], strict=False))
    hub.files[dataset.hub, dataset.revision] = content


def error_of(name, path=None) -> str:
    start = time.monotonic()
    with pytest.raises(DatasetError) as caught:
        load_examples(name, path=path)
    assert time.monotonic() - start < 5, "an error must come at once, without rounds of retries"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parquet_at_the_pinned_commit(hub):
    serve(hub, "gsm8k", parquet([GSM8K]), parquet([{"question": "t", "answer": "u"}]))
    (example,) = load_examples("gsm8k")
    assert (example.id, example.prompt) == ("gsm8k-train-00000", "Question: How many?\nAnswer:")
    (example,) = load_examples("gsm8k", split="evaluate")
    assert example.prompt == "Question: t\nAnswer:"


def test_what_is_cached_needs_no_network(hub):
    serve(hub, "meta_math", json.dumps([RECORDS["meta_math"][0]]).encode())
    first = load_examples("meta_math")
    assert hub.requests
    hub.requests.clear()
    hub.broken = True
    assert load_examples("meta_math") == first
    assert hub.requests == []


def test_only_the_file_that_holds_the_records_is_fetched(hub):
    record = json.dumps(RECORDS["code25k"][0]).encode()
    serve(hub, "code25k", record)
    hub.files[DATASETS["code25k"].hub, DATASETS["code25k"].revision]["python-codes-25k.json"] = record
    assert len(load_examples("code25k")) == 1
    assert not any(path.endswith(".json") for path in hub.requests)


def test_a_commit_of_the_users_own(hub):
    repository = DATASETS["zsre"].hub
    hub.files[repository, COMMIT] = {
        "training-data/zsre_mend_train.json": json.dumps([RECORDS["zsre"][0]]).encode(),
        "training-data/zsre_mend_eval.json": b"[]",
    }
    (example,) = load_examples("zsre", path=f"hub:{repository}@{COMMIT}")
    assert example.answer == " Rome"


def test_another_repository_is_read_by_the_names_of_its_files(hub):
    hub.files["me/mine", COMMIT] = {
        "README.md": b"---\nlicense: mit\n---\n",
        "data/train.jsonl": b'{"prompt": "p", "answer": " a"}\n',
        "data/test.jsonl": b'{"prompt": "q", "answer": " b"}\n',
        "loader.py": b"raise SystemExit",
    }
    path = f"hub:me/mine@{COMMIT}"
    assert [e.answer for e in load_examples("mytask", path=path)] == [" a"]
    assert [e.answer for e in load_examples("mytask", path=path, split="evaluate")] == [" b"]
    assert not any("loader.py" in request for request in hub.requests)


def test_repository_without_data(hub):
    hub.files["me/mine", COMMIT] = {"README.md": b"nothing"}
    assert "me/mine holds no .jsonl" in error_of("mytask", f"hub:me/mine@{COMMIT}")


def test_absent_repository(hub):
    message = error_of("gsm8k")
    assert message.startswith("openai/gsm8k is not on the hub, or private") and "--data-root" in message


def test_gated_repository(hub):
    serve(hub, "imdb", b"")
    hub.gated.add("stanfordnlp/imdb")
    message = error_of("imdb")
    assert message.startswith(
        "stanfordnlp/imdb is gated: accept its licence at https://huggingface.co/datasets/"
    )
    assert "hf auth login" in message and "--data-root" in message


def test_absent_commit(hub):
    hub.files["openai/gsm8k", COMMIT] = {}
    assert f"openai/gsm8k has no commit {DATASETS['gsm8k'].revision}" in error_of("gsm8k")


def test_absent_file(hub):
    hub.files["openai/gsm8k", DATASETS["gsm8k"].revision] = {"other.txt": b""}
    assert "openai/gsm8k@740312a lacks a file" in error_of("gsm8k")


def test_broken_hub(hub):
    hub.broken = True
    assert error_of("gsm8k").startswith("openai/gsm8k cannot be fetched")


def test_no_network(hub, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    message = error_of("emotion")
    assert message.startswith("dair-ai/emotion cannot be fetched") and "--data-root" in message


def test_offline_mode(hub, monkeypatch):
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in error_of("gsm8k")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("zsre", "no commit of wangzn2001/Model_Editing_Hurt has been verified; pin one with path='hub:")]
    + [(n, "no hub repository holds its original records") for n in ("pararel", "known_1000", "decoupling")],
)
def test_datasets_without_a_pinned_repository_say_how_to_get_them(name, reason, hub):
    message = error_of(name)
    assert reason in message and "--data-root" in message and DATASETS[name].home in message
    assert hub.requests == []


@pytest.mark.parametrize(
    "pin", ["me/mine", "me/mine@main", f"me/mine@{COMMIT[:7]}", f"me/mine@{COMMIT}0", f"@{COMMIT}", ""]
)
def test_a_pin_is_a_whole_commit(pin, hub):
    assert "with all 40 digits of the commit" in error_of("gsm8k", f"hub:{pin}")
    assert hub.requests == []
