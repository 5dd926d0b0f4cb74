r"""The answer that a worked solution ends with, read as a careful person would read it.

Where it stands: behind the first ``####`` or "the answer is"; else in the last ``\boxed{}``; else behind "Answer:". A
text without such a mark is an answer if it is one line with a number in front and no further digit.

What is decided, where people may differ:

- What goes on behind a number as language does (units, words, a bracket, the next sentence) is ignored. What goes on as
  mathematics or as a list does (``5x``, ``5+3``, ``5:30``, ``3-5``, ``5 or 6``, ``1,2,3``) makes it an expression,
  which is compared as text; of an equation the right side counts. Words in front are ignored where the line has no
  other number.
- ``1,234`` has thousands and ``1.234`` a decimal point, as in English; ``1,5`` and ``1.234,56`` have a decimal comma.
  Commas, points, spaces and apostrophes part groups of three digits; commas also groups as in India.
- Currencies and units are ignored, not converted: ``$5`` is ``5 EUR``, and ``50 cents`` is 50. ``5 million`` is
  5,000,000.
- ``25%`` is 25, and also the 0.25 or 1/4 of another text, but not its whole number: ``100%`` is not 1.
- A dash in front is a minus; brackets around a number mean nothing; ``5!`` is an exclamation. Numbers in words, and of
  more than 400 digits, are text.
"""

# ruff: noqa: RUF001  the typography that people and models write is what this file is about

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_I, _X = re.IGNORECASE, re.VERBOSE

_HEADING = r"(?:step|part|case|day|question|problem|example|method|option|solution|explanation)\b"
_MARK = re.compile(rf"\#{{4,}}(?!\W{{0,4}}{_HEADING})|\banswer(?:\s\w+){{0,6}}?\W{{1,4}}is\b", _I)
_BOX = re.compile(r"\\f?boxed\s*(?=\{)")
_CAPTION = re.compile(r"^\W{0,4}(?:the\s|final\s)*answer\W{0,4}[:=]", _I | re.MULTILINE)
_FILLER = re.compile(r"(?:[\s:=*_`#]|(?:the\s|final\s)*answer\b(?:\sis\b)?)*", _I)

_MOST_CHARACTERS = 1000  # of a line that are looked at for a number
_MOST_DIGITS = 400  # of a number: ``int`` refuses 4,300, and powers of ten grow without end

_SAME = str.maketrans("×·⋅∙⁄∕÷’‘ʼ′≈≃≅٫٬٪。、—―−", "****///''''===.,%.,;;-")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_WRAPPER = re.compile(
    r"\\(?:text\w*|math\w+|[mhf]box|f?boxed|operatorname|boldsymbol|bm|emph|underline)\s*\{([^{}]*)\}"
)
_PLAINER = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\!|\\(?:left|right|displaystyle|textstyle|[bB]igg?|boxed(?!\s*\{))\b|\\[()\[\]]", ""),
        (r"\\[,;: \\]|\\q?quad\b|(?<=\w)~|</?[a-zA-Z]\w{0,20}>|<\|\w{1,30}\|>", " "),
        (r"\{([,.])\}|\\([$%#&])", r"\1\2"),
        (r"\\[dtc]frac\b", r"\\frac"),
        (r"\\(?:cdot|times)\b", "*"),
        (r"\\(?:approx|sim|simeq)\b", "="),
        (r"\^\s*\{?\s*\\(?:circ|degree)\b\s*\}?|\\degree\b", "°"),
        (r"(?:\b[A-Z]{1,3})?\$|\\(?:pounds|euro|yen)\b", "$"),
        (r"(?<![\w)\]}*_`])[*_`]+(?=\S)|(?<=[^\s*_`])[*_`]+(?![\w(\[{\\*_`])", ""),  # emphasis
    )
)
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}\\]*)\}|(\d))\s*(?:\{([^{}\\]*)\}|(\d))")
_POWER = re.compile(r"(?:(?<=\d)\s*[*x]\s*|(?<![\w.,^])(?=10))10\s*\^\s*\(?\s*([-+]?\d+)\)?")

_LEAD = re.compile(r"(?:[\s\"'“”«»(\[{=:;,~|→⇒•]|[-=]>)*")
_TOKEN = r"(?:\d+(?:[.,'_]\d+|\ \d{3}(?![\d/]))*|\.\d+)"
_NUMBER = re.compile(
    rf"""(?:(?P<sign>[-+]|\b(?:minus|negative)\s)\s*)?
    (?:\b(?:(?-i:[A-Z]{{3}})|Rs\.?|[Kk]r\.?|Fr\.?)\s*(?P<inner>-)?)?
    (?P<size>{_TOKEN})(?:e(?P<power>[-+]?\d+))?
    (?:\s*/\s*(?P<under_minus>-)?(?P<below>{_TOKEN})|\s+(?:and\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+))?
    (?:\s*(?P<scale>hundred|thousand|million|billion|trillion|lakh|crore)\b|(?P<short>k|(?-i:M|B|mn|bn))\b)?
    (?P<percent>\s*(?:%|per\s?cent\b))?""",
    _X | _I,
)
_SIZE = re.compile(
    r"""
    (?P<plain>\d*|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d\d)+,\d{3}|[1-9]\d{0,2}(?P<mark>['_\ ])\d{3}(?:(?P=mark)\d{3})*)
        (?:\.(?P<decimals>\d+))?
    |(?P<continental>\d+|[1-9]\d{0,2}(?:\.\d{3})+|[1-9]\d{0,2}(?P<gap>['\ ])\d{3}(?:(?P=gap)\d{3})*)
        ,(?P<places>\d+)
    |(?P<points>[1-9]\d{0,2}(?:\.\d{3}){2,})""",
    _X,
)
_SCALES = {"hundred": 2, "thousand": 3, "lakh": 5, "million": 6, "crore": 7, "billion": 9, "trillion": 12}
_SCALES |= {"k": 3, "m": 6, "mn": 6, "b": 9, "bn": 9, "": 0}

_ANOTHER = r"[-+]?\ ?\.?\d"
_WORD = r"[^\W\d_]+"
_UNIT_WITH_PARTS = (
    r"(?:years?|months?|weeks?|days?|hours?|h|hrs?|min(?:ute)?s?|feet|foot|ft|pounds?|lbs?|dollars?)"
)
_GOES_ON = re.compile(
    rf"""\s*(?:[+*^±√∞\\<>≤≥_]|!=|/(?!-(?!\d)|\s*[^\W\d_]{{2}})|-\s*(?:[\d.(]|[a-z]\b)|:\s*\d|\.\.+\s*\d|[,;]\s*{_ANOTHER})
    |\s+{_ANOTHER}
    |\s*(?:{_WORD}[,.]?\s+){{0,3}}(?:and|or|to|plus|minus|times)\s+{_ANOTHER}
    |\s*(?!(?:of|in|out|per|for|at|on|by|from|after|with|since|because|as|is)\b){_WORD}\s+{_ANOTHER}
    |\s*{_UNIT_WITH_PARTS}[,.]?\s+{_ANOTHER}
    |\s*(?:[b-fijkn-rt-z]|[α-λν-ω])(?![\w'.])|(?<=\d)(?:a|[abcxyz]{{2,3}})\b
    |\s*[^\W\d_]{{4,}}\d|\((?=[^()]*[\d+*^=])""",
    _X,
)
_WORDS = re.compile(r"(?:(?:[^\W\d_]{2,}|[aI])\b[\s,:;'\"()-]+)+")


class _Answer(NamedTuple):
    value: Fraction | str | None
    percent: bool = False


def final_answer(text: str) -> Fraction | str | None:
    """What ``text`` gives as its answer: a number, or, behind a mark, an expression that is none, as text."""
    return _read(text).value


def same_answer(generated: str, reference: str) -> bool:
    """Whether both give an answer, and the same."""
    one, other = _read(generated), _read(reference)
    if one.value is None or one.value == other.value:
        return one.value is not None
    if isinstance(one.value, str) or not isinstance(other.value, Fraction) or one.percent == other.percent:
        return False
    percent, share = (one.value, other.value) if one.percent else (other.value, one.value)
    return percent == 100 * share and share.denominator > 1


@lru_cache(maxsize=4096)
def _read(text: str) -> _Answer:
    line = _answer_line(text)
    if line is None:
        whole = text.strip()
        number = None if "\n" in whole else _leading(_plain(whole))
        return _Answer(None) if number is None or re.search(r"\d", number[1]) else number[0]
    plain = _plain(line)
    found = _leading(plain)
    if found is None and (equation := re.match(r".*(?<![<>!])=", plain)):
        found = _leading(plain[equation.end() :])
    answer = _within(plain) if found is None else found[0]
    return answer or _Answer(_expression(plain) + line[_MOST_CHARACTERS:] or None)


def _answer_line(text: str) -> str | None:
    """What stands behind the text's mark; None where it has none."""
    found = _MARK.search(text)
    if found is None and (boxes := list(_BOX.finditer(text))):
        return _boxed(text[boxes[-1].start() :])
    found = found or _CAPTION.search(text)
    if found is None:
        return None
    begin = _FILLER.match(text, found.end())
    assert begin is not None
    return _boxed(text[begin.end() :].partition("\n")[0])


def _boxed(line: str) -> str:
    """The content of the first box, if there is one."""
    found, depth = _BOX.search(line), 0
    if found is None:
        return line
    sign = "-" if re.search(r"[-−]\s*$", line[: found.start()]) else ""
    inside = line[found.end() : found.end() + _MOST_CHARACTERS]
    for brace in re.finditer(r"[{}]", inside):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            inside = inside[: brace.start()]
            break
    return sign + inside[1:]


def _plain(line: str) -> str:
    """The line without LaTeX, Markdown and typography; ``$`` for any currency sign."""
    line = line[:_MOST_CHARACTERS]
    if not line.isascii():
        line = _RAISED.sub(lambda found: "^" + found[0], line)
        line = _VULGAR.sub(lambda found: " " + found[0], line)
        line = unicodedata.normalize("NFKC", line.translate(_SAME))[:_MOST_CHARACTERS].translate(_SAME)
        line = "".join(map(_plain_character, line))
    for pattern, plain in _PLAINER if re.search(r"[^a-zA-Z\d\s.-]", line) else ():
        line = pattern.sub(plain, line)
    if "\\" in line:
        for _ in range(8):  # one in another
            line, count = _WRAPPER.subn(r"\1", line)
            if not count:
                break
        line = _FRACTION.sub(
            lambda found: f" {_part(found[1] or found[2])}/{_part(found[3] or found[4])} ", line
        )
    return line.strip()


def _part(of_fraction: str | None) -> str:
    part = (of_fraction or "").strip()
    return part if re.fullmatch(r"-?[\w.,]+", part) else f"({part})"


def _plain_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    return {"Sc": "$", "Cf": "", "Zs": " ", "Pd": "-"}.get(kind, character)


def _expression(plain: str) -> str:
    """An expression as it is compared: without a sentence behind it, dollar signs, and spaces about signs."""
    sentence = re.split(r"\.(?:\s|$)", plain, maxsplit=1)[0].replace("$", "")
    return re.sub(r"\s*([^\w\s])\s*", r"\1", sentence).strip()


def _within(plain: str) -> _Answer | None:
    """The one number of a line, words in front of it."""
    line = _simple(plain)
    within = _NUMBER.search(line)
    if within is None or _GOES_ON.match(line, within.end()) or re.search(r"\d", line[within.end() :]):
        return None
    words = line[: within.start()]
    if not _WORDS.fullmatch(words) or re.search(rf"\bnot\b|{_HEADING}\s*$", words, _I):
        return None
    return _value(within)


def _leading(plain: str) -> tuple[_Answer, str] | None:
    """The number that a line begins with, unless it goes on as an expression or a list; and what is behind it."""
    line = _simple(plain)
    lead = _LEAD.match(line)
    assert lead is not None
    found = _NUMBER.match(line, lead.end())
    if found is None or _GOES_ON.match(line, found.end()):
        return None
    if re.search(r"[(\[{]", lead[0]) and re.search(r",(?!\d{3}(?!\d))", found["size"]):
        return None  # coordinates
    answer = _value(found)
    return None if answer is None else (answer, line[found.end() :])


def _simple(plain: str) -> str:
    line = re.sub(r"[{}$]", lambda found: " " if found[0] == "$" else "", plain)
    line = re.sub(r"\s+and\s+a\s+half\b", " 1/2", line)
    return _POWER.sub(lambda found: ("1e" if found[0].startswith("10") else "e") + found[1], line)


def _value(found: re.Match[str]) -> _Answer | None:
    parts = (("size", "0"), ("below", "1"), ("over", "0"), ("under", "1"))
    sizes = [size for name, missing in parts if (size := _size(found[name] or missing)) is not None]
    power = found["power"] or "0"
    if len(sizes) < len(parts) or not sizes[1] or not sizes[3] or len(power) > 4:
        return None
    exponent = int(power) + _SCALES[(found["scale"] or found["short"] or "").lower()]
    if abs(exponent) > _MOST_DIGITS:
        return None
    value = (sizes[0] * Fraction(10) ** exponent + sizes[2] / sizes[3]) / sizes[1]
    negative = ((found["sign"] or "+") != "+" or bool(found["inner"])) != bool(found["under_minus"])
    return _Answer(-value if negative else value, bool(found["percent"]))


def _size(token: str) -> Fraction | None:
    """A decimal number, by the marks in it; None if they make it a list or something else."""
    found = _SIZE.fullmatch(token)
    if found is None:
        return None
    whole = found["plain"] or found["continental"] or found["points"] or "0"
    digits, places = re.sub(r"\D", "", whole).lstrip("0"), found["decimals"] or found["places"] or ""
    if len(digits) + len(places) > _MOST_DIGITS:
        return None
    return Fraction(int(digits + places or "0"), 10 ** len(places))
