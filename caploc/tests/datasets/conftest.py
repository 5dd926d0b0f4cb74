from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[4] / "shared"

GSM8K = {"question": "How many?", "answer": "2+3=<<2+3=5>>5 eggs\n#### 5"}

# A raw record a dataset, in the source's own fields, and the (prompt, answer, group) it must become.
RECORDS: dict[str, tuple[dict[str, Any], list[tuple[str, str, str | None]]]] = {
    "gsm8k": (GSM8K, [("Question: How many?\nAnswer:", " 2+3=5 eggs\n#### 5", None)]),
    "meta_math": (
        {"query": "What is x?", "response": "x=1\nThe answer is: 1", "type": "T", "original_question": "x?"},
        [("Question: What is x?\nAnswer:", " x=1\nThe answer is: 1", None)],
    ),
    "code25k": (
        {
            "instruction": "Say hi",
            "input": "Greeting...",
            "output": "```python\nprint('hi')\n```",
            "text": "...",
        },
        [("Instruction: Say hi\nGreeting...\nCode:", "\n```python\nprint('hi')\n```", None)],
    ),
    "emotion": ({"text": "i feel fine", "label": 1}, [("Text: i feel fine\nEmotion:", " joy", None)]),
    "imdb": (
        {"text": "Bad.<br /><br />Very bad.", "label": 0},
        [("Review: Bad.  Very bad.\nSentiment:", " negative", None)],
    ),
    "counterfact": (
        {
            "case_id": 7,
            "requested_rewrite": {
                "prompt": "The mother tongue of {} is",
                "subject": "A. {0} B.",
                "target_true": {"str": "French", "id": "Q150"},
                "target_new": {"str": "English", "id": "Q1860"},
            },
        },
        [("The mother tongue of A. {0} B. is", " French", "7")],
    ),
    "zsre": (
        {"subject": "S", "src": "Where was S born?", "pred": "P", "answers": ["Rome", "Roma"], "alt": "Q"},
        [("Where was S born?", " Rome", "S")],
    ),
    "pararel": (
        {
            "relation": "P19",
            "uuid": "u1",
            "sub_label": "S [Y]",
            "obj_label": "Rome",
            "patterns": ["[X] was born in [Y] .", "[Y] is where [X] was born.", "[X] hails from [Y]"],
        },
        [("S [Y] was born in", " Rome", "P19:u1"), ("S [Y] hails from", " Rome", "P19:u1")],
    ),
    "known_1000": (
        {"known_id": 3, "subject": "S", "attribute": "BBC", "template": "{} airs on", "prompt": "S airs on"},
        [("S airs on", " BBC", "3")],
    ),
    "mbpp": (
        {"text": "Add one.", "code": "def f(x):\r\n    return x + 1", "task_id": 1},
        [("Add one.\nCode:", "\ndef f(x):\r\n    return x + 1", None)],
    ),
    "gsm8k_backward": (
        {"question": "What is x?", "answer": "4", "original_question": "How many?"},
        [("Question: What is x?\nAnswer:", " 4", None)],
    ),
    "decoupling": (
        {
            "id": "p1",
            "expression": "1+1",
            "answer": "2",
            "direct_prompt": "1+1=?",
            "direct_answer": " 2",
            "code_prompt": "Code for 1+1:",
            "code_answer": "\nprint(1+1)",
        },
        [("1+1=?", " 2", "p1"), ("Code for 1+1:", "\nprint(1+1)", "p1")],
    ),
    "mytask": ({"prompt": "a b", "answer": " c"}, [("a b", " c", None)]),
}

WriteJsonLines = Callable[[str, Iterable[Mapping[str, Any]]], Path]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonLines:
    """Writes records below `tmp_path`, one a line, and returns the file."""

    def write(name: str, records: Iterable[Mapping[str, Any]]) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return file

    return write


@pytest.fixture
def real_data() -> Path:
    """Samples of the real datasets, which are not part of the project."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real samples: put them into {folder} (see caploc/datasets for the formats)")
    return folder
