"""``python -m caploc.check MODULE:NAME``: check a locator from the shell."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caploc.check.contract import DUTIES
from caploc.check.marks import MARKS, MEASURES
from caploc.check.running import TIMEOUT, check_locator
from caploc.errors import CaplocError, OptionError, UnknownNameError
from caploc.zoo import KINDS, zoo_names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    marks = {one.key: f"{one} ({', '.join(one.kinds)}): {one.why}" for one in MARKS}
    made = argparse.ArgumentParser(
        prog="python -m caploc.check",
        description=(
            "Try a locator of neurons on small models in which it is known which neurons carry a task: trained in,\n"
            "written by hand, split, rescaled, beside decoys (active without effect), and models that have none.\n"
            "It is run in child processes on copies; what it returns is compared with the truth.\n\n"
            "A locator is any callable, in a module that can be imported from here:\n\n"
            "  def locate(lm, examples, others=None):     # lm.model and lm.tokenizer are Hugging Face's own\n"
            "      ...                                    # others: examples of other tasks, if you name it\n"
            "      return scores                          # [layers, neurons]; |score| ranks. Or a bool mask, or a\n"
            "                                             # caploc.NeuronMask(members, scores=scores): both are judged"
        ),
        epilog=(
            f"checks of every model\n{_listed(dict(DUTIES))}\n\n"
            f"marks, on models of the kinds named\n{_listed(marks)}\n\n"
            f"measures\n{_listed(dict(MEASURES))}\n\n"
            "examples\n"
            "  python -m caploc.check mypackage.module:locate\n"
            "  python -m caploc.check cnl --option sigma=3            a locator of caploc's own, by its key\n"
            "  python -m caploc.check mine.py:locate --model written  all models of one kind\n"
            "  python -m caploc.check mine.py:locate --json out.json  for programs\n\n"
            "exit status: 0 all met, 1 some missed, 2 something cannot be run"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "locator",
        metavar="MODULE:NAME",
        help="an importable callable, FILE.py:NAME, or a key of caploc.LOCATORS",
    )
    made.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model, or all of a kind (repeatable; default: one of each kind); --list shows them",
    )
    made.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword for the locator; the value is read as JSON, else as text",
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"for one call (default {TIMEOUT:g})",
    )
    made.add_argument("--workers", type=int, metavar="N", help="models tried at once (default: one a core)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    made.add_argument("--list", action=_List, nargs=0, help="list the models and stop")
    return made


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write("\n".join(zoo_names()) + "\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all marks met; 1: some missed; 2: something cannot be run, in one line on stderr."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.json is not None and not chosen.json.resolve().parent.is_dir():
            raise OptionError(
                f"--json {chosen.json}: there is no folder {chosen.json.resolve().parent}; make it first"
            )
        models = [
            name for one in chosen.model for name in (zoo_names(one) if one in KINDS else (one,))
        ] or None
        report = check_locator(
            find(chosen.locator),
            models,
            timeout=chosen.timeout,
            options=dict(_option(one) for one in chosen.option),
            workers=chosen.workers,
        )
    except CaplocError as error:
        sys.stderr.write(f"caploc.check: {error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    if chosen.json is not None:
        chosen.json.write_text(report.to_json() + "\n", encoding="utf-8")
    return 0 if report.passed else 1


def find(name: str) -> Any:
    """The callable that the command line names.

    Raises:
        UnknownNameError: no such key, module, file or attribute, or a module that cannot be imported, and why.
    """
    home, colon, path = name.rpartition(":")
    if not colon:
        from caploc.locators import LOCATORS

        if name not in LOCATORS:
            raise UnknownNameError(
                f"no locator is called {name!r}; name one of {', '.join(LOCATORS)}, or your own as MODULE:NAME"
            )
        return LOCATORS[name]
    module = _imported(home)
    for part in path.split("."):
        if not hasattr(module, part):
            raise UnknownNameError(f"{home} has no {path!r}; name a callable of it as {home}:NAME")
        module = getattr(module, part)
    return module


def _imported(home: str) -> Any:
    where = Path(home)
    folder, name = (where.resolve().parent, where.stem) if where.suffix == ".py" else (Path.cwd(), home)
    if where.suffix == ".py" and not where.is_file():
        raise UnknownNameError(f"there is no file {home}")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except Exception as error:
        text = " ".join(str(error).split())
        raise UnknownNameError(f"{home} cannot be imported: {type(error).__name__}: {text}") from error


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise OptionError(f"--option {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _listed(texts: Mapping[Any, str]) -> str:
    width = max(map(len, texts))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in texts.items())


if __name__ == "__main__":
    sys.exit(main())
