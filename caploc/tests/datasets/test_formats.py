"""Records written in every format, with every variation that files in the wild have, are read back as they were."""

from __future__ import annotations

import csv
import io
import json
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.datasets import load_examples
from caploc.datasets.base import read_file
from caploc.errors import DatasetError
from caploc.examples import Example

pytestmark = pytest.mark.filterwarnings("ignore:.*continues the prompt's last word")

# separators of lines to Unicode but not to JSON Lines, marks, quotes, and what tables take for a gap or a number
SPECIAL = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n", "\r\n", "\ufeff", '"', ",", "\t"]
SPECIAL += ["NA", "7", "\x00"]
characters = st.characters(exclude_categories=["Cs"])
texts = st.lists(st.one_of(st.sampled_from(SPECIAL), characters), min_size=1, max_size=6).map("".join)
texts = texts.filter(str.strip)
keys = texts | st.integers(-(2**63), 2**63 - 1)
records = st.lists(
    st.fixed_dictionaries({"prompt": texts, "answer": texts}, optional={"group": st.none() | keys}),
    min_size=1,
    max_size=6,
    unique_by=lambda record: (record["prompt"], record["answer"]),
)


def wanted(rows):
    """What `load_examples` must make of the records."""
    groups = [None if row.get("group") is None else str(row["group"]) for row in rows]
    return [(row["prompt"], row["answer"], group) for row, group in zip(rows, groups, strict=True)]


@st.composite
def json_lines(draw, rows):
    ascii_only, mark = draw(st.booleans()), draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]))
    dumped = [
        json.dumps(dict(draw(st.permutations([*row.items()]))), ensure_ascii=ascii_only) for row in rows
    ]
    return mark + (end.join(dumped) + draw(st.sampled_from(["", end]))).encode()


@st.composite
def json_array(draw, rows):
    mark, indent = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\r\n "])), draw(st.sampled_from([None, 1]))
    return mark + json.dumps(rows, indent=indent, ensure_ascii=draw(st.booleans())).encode() + b"\n"


@st.composite
def csv_table(draw, rows):
    names = draw(st.permutations(["prompt", "answer", "group"]))
    stream = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    writer = csv.DictWriter(
        stream, names, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"]))
    )
    writer.writeheader()
    writer.writerows(rows)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + stream.getvalue().encode()


@st.composite
def parquet(draw, rows):
    groups = [row.get("group") for row in rows]
    if {*map(type, groups)} & {str} and {*map(type, groups)} & {int}:
        groups = [group if group is None else str(group) for group in groups]
    columns = {name: pa.array([row[name] for row in rows]) for name in ("prompt", "answer")}
    columns["group"] = pa.array(groups)
    for name in ("prompt", "answer"):
        if draw(st.booleans()):
            columns[name] = columns[name].dictionary_encode()  # a categorical
    columns["when"] = pa.array([1] * len(rows), pa.timestamp("ns"))
    columns["nested"] = pa.array([{"a": [1, None], "b": None}] * len(rows))
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


FORMATS = {".jsonl": json_lines, ".json": json_array, ".csv": csv_table, ".parquet": parquet}


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_records_come_back_as_they_were_written(suffix, data):
    rows = data.draw(records)
    content = data.draw(FORMATS[suffix](rows))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"mine{suffix}"
        file.write_bytes(content)
        assert [(e.prompt, e.answer, e.group) for e in load_examples("mine", file)] == wanted(rows)


def surrogates(text):
    """The text with half an emoji somewhere in it."""
    return st.integers(0, len(text)).flatmap(
        lambda place: st.sampled_from("\ud83d\udfff\udc00").map(
            lambda half: text[:place] + half + text[place:]
        )
    )


@pytest.mark.parametrize("field", ["prompt", "answer", "id", "group", "subject"])
@given(data=st.data(), rows=records, seed=st.integers())
@settings(max_examples=25, deadline=None)
def test_half_an_emoji_in_any_field_is_refused_where_it_stands(field, data, rows, seed):
    place = random.Random(seed).randrange(len(rows))
    rows = [{**row, "id": number, "subject": "s"} for number, row in enumerate(rows)]
    rows[place][field] = data.draw(surrogates(str(rows[place].get(field, "x"))))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(DatasetError) as caught:
            load_examples("mine", file, limit=3)
    assert str(caught.value).startswith(
        f"{file}:{place + 1}: field '{field}' has a lone surrogate at character "
    )
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"the {field} has a lone surrogate"):
        Example(
            **{"id": "e", "prompt": "p", "answer": "a", "group": "g", "subject": "p", field: "\ud83d"}
        ).validate()


def error_of(file) -> str:
    with pytest.raises(DatasetError) as caught:
        load_examples("mine", file)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(file))


GOOD = '{"prompt": "p", "answer": " a"}\n'


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"prompt": "q", "answer": " a", "prompt": "r"}', "the key 'prompt' stands twice in one object"),
        (
            '{"prompt": "q", "answer": " a", "more": {"x": 1, "x": 1}}',
            "the key 'x' stands twice in one object",
        ),
        ('{"prompt": "q", "answer": " a", "id": NaN}', "NaN is no finite number"),
        ('{"prompt": "q", "answer": " a", "id": -Infinity}', "-Infinity is no finite number"),
        ('{"prompt": "q", "answer": " a", "id": 1e999}', "1e999 is no finite number"),
        ('{"prompt": "q", "answer": " a", "id": 1.5}', "field 'id' is of type float"),
        ('{"prompt": "q", "answer": " a", "group": true}', "field 'group' is of type bool"),
        ('{"prompt": "q", "answer": " a", "group": [1]}', "field 'group' is of type list"),
        ('{"prompt": "q", "answer": 7}', "field 'answer' is of type int"),
        ('{"prompt": "q", "answer": " a"} {}', "not valid JSON (Extra data"),
    ],
)
def test_bad_json_names_its_record(record, reason, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(GOOD + "\n" + record + "\n" + GOOD)
    assert error_of(file).startswith(f":3: {reason}")
    file = tmp_path / "mine.json"
    file.write_text(f"[{GOOD},{record}\n,{GOOD}]")
    assert error_of(file).startswith(" record 2: ")


@pytest.mark.parametrize("content", ["[{},]", "[{} {}]", "[", "[,]", "[{}", '["a"]', "[{}] []"])
def test_an_array_that_is_none(content, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(content.replace("{}", GOOD.strip()))
    error_of(file)


def test_a_large_number_keeps_its_digits(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "p", "answer": " a", "id": 2**63 + 1}))
    assert load_examples("mine", file)[0].id == f"mine-{2**63 + 1}"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("prompt,answer\np, a\nq\n", ":3: has 1 cells, and the header 2; quote cells"),
        ("prompt,answer\np, a\n\nq,b,c\n", ":4: has 3 cells, and the header 2"),
        ('prompt,answer\n"p\nq", a\nq,"b', ":4: not valid CSV (unexpected end of data)"),
        ('prompt,answer\n"p"q, a\n', ":2: not valid CSV"),
        ("prompt,answer,prompt\np, a,q\n", ": two columns are called 'prompt'"),
        ("prompt,answer\n", ": the table has no record"),
        ("prompt;answer\np; a\n", ":2: field 'prompt' is missing or null (fields there: prompt;answer)"),
        ("prompt,answer\np,\n", ":2: field 'answer' is empty"),
    ],
)  # fmt: skip
def test_a_bad_table_names_its_line(table, reason, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(table)
    assert error_of(file).startswith(reason)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_other_encodings_are_named(suffix, encoding, tmp_path):
    file = tmp_path / f"mine{suffix}"
    text = (
        "prompt,answer\nö,ä\n"
        if suffix == ".csv"
        else json.dumps({"prompt": "ö", "answer": "ä"}, ensure_ascii=False)
    )
    file.write_bytes(text.encode(encoding))
    assert "convert the file to UTF-8" in error_of(file)


def test_csv_cells_are_text_labels_and_gaps(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("id,prompt,answer,group\n007,1,2.50,\n8,True, 1e5,9\n")
    assert load_examples("mine", file) == [
        Example("mine-007", "1", "2.50"),
        Example("mine-8", "True", " 1e5", "9"),
    ]
    file = tmp_path / "emotion.csv"
    file.write_text("text,label\nfine,1\n")
    assert load_examples("emotion", file)[0].answer == " joy"
    file.write_text("text,label\nfine,1.0\n")
    with pytest.raises(
        DatasetError, match=r"emotion\.csv:2: field 'label' is of type CsvText; it must be an integer"
    ):
        load_examples("emotion", file)


def test_a_long_cell(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("prompt,answer\n" + "p" * 200_000 + ", a\n")
    limit = csv.field_size_limit()
    assert len(load_examples("mine", file)[0].prompt) == 200_000
    assert csv.field_size_limit() == limit


def test_bytes_in_parquet_that_are_no_text(tmp_path):
    file = tmp_path / "mine.parquet"
    raw = pa.array([b"p", b"\xff", b"q"])
    as_text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"prompt": as_text, "answer": pa.array([" a"] * 3)}), file)
    assert error_of(file).startswith(
        " record 2: field 'prompt' cannot be read ('utf-8' codec can't decode byte 0xff"
    )
    pq.write_table(pa.Table.from_arrays([pa.array(["p"]), pa.array(["q"])], ["prompt", "prompt"]), file)
    assert error_of(file).startswith(": two columns are called 'prompt'")
    pq.write_table(pa.table({"prompt": ["p"], "answer": [" a"], "group": [float("nan")]}), file)
    assert error_of(file).startswith(" record 1: field 'group' is of type float")


def test_duplicate_ids_are_named_in_every_format(tmp_path):
    rows = [{"prompt": f"p{i}", "answer": " a", "id": i % 2} for i in range(3)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "mine.csv").write_text("id,prompt,answer\n0,p, a\n1,q, a\n0,r, a\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    for suffix, first, last in (
        (".jsonl", ":1", ":3"),
        (".csv", ":2", ":4"),
        (".parquet", " record 1", " record 3"),
    ):
        file = tmp_path / f"mine{suffix}"
        assert error_of(file) == f"{last}: id 'mine-0' also belongs to {file}{first}; make ids unique"


def test_a_suffix_in_capitals(tmp_path):
    file = tmp_path / "mine.JSONL"
    file.write_text(GOOD)
    assert [where for where, _ in read_file(file)] == [f"{file}:1"]
