"""1,000 hostile strings: seeds of every kind that has broken a report, a terminal or a parser, and their mutations."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

COUNT = 1000
SEED = 0
LINE = 1_000_000
PWN = "window.pwned=1;document.title='pwned';alert(1)"

SEEDS = (
    # scripts and event handlers
    f"<script>{PWN}</script>",
    f"<ScRiPt >{PWN}</sCrIpT >",
    f"<scr<script>ipt>{PWN}</scr</script>ipt>",
    f'<img src=x onerror="{PWN}">',
    f"<img/src='x'/onerror={PWN}>",
    f"<svg/onload={PWN}>",
    f"<svg><animate onbegin={PWN} attributeName=x dur=1s>",
    f"<svg><script>{PWN}</script></svg>",
    f"<body onload={PWN}>",
    f"<details open ontoggle={PWN}>",
    f"<input autofocus onfocus={PWN}>",
    f"<iframe srcdoc='<script>parent.{PWN}</script>'></iframe>",
    f'<iframe src="javascript:parent.{PWN}"></iframe>',
    f'<a href="javascript:{PWN}">click</a>',
    f'<object data="data:text/html,<script>{PWN}</script>"></object>',
    f'<embed src="javascript:{PWN}">',
    f'<math><mi xlink:href="javascript:{PWN}">x</mi></math>',
    f'<form action="javascript:{PWN}"><button>',
    f"<video><source onerror={PWN}></video>",
    f"<style>@import 'javascript:{PWN}';</style>",
    f'<link rel=stylesheet href="javascript:{PWN}">',
    f'<meta http-equiv=refresh content="0;javascript:{PWN}">',
    "<base href='https://example.invalid/'>",
    # ways out of attributes, elements, comments, templates and JSON
    f'"><script>{PWN}</script>',
    f"'><script>{PWN}</script>",
    f'" onmouseover="{PWN}" x="',
    f"' autofocus onfocus='{PWN}",
    f"</title><script>{PWN}</script>",
    f"</style><script>{PWN}</script>",
    f"</script><script>{PWN}</script>",
    f"</textarea></template></noscript><script>{PWN}</script>",
    f"--><script>{PWN}</script><!--",
    f"<!--<script>{PWN}",
    f"]]><script>{PWN}</script><![CDATA[",
    f'\\"}}]}}</script><script>{PWN}</script>',
    f"\\'-{PWN}-\\'",
    f"${{{PWN}}}",
    "{{ self.__init__.__globals__ }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{0}",
    "%s%n%d",
    "</summary></details></td></tr></tbody></table></section></div>",
    "<table><tr><td>",
    "</bdi></code></pre>",
    "<plaintext>",
    "<xmp>",
    # entities, and what turns into them
    "&lt;script&gt;" + PWN + "&lt;/script&gt;",
    "&#60;script&#62;",
    "&#x3c;img src=x onerror=alert(1)&#x3e;",
    "&",
    "&amp;amp;",
    "&nosuchentity;",
    "&#0;",
    "&#xD800;",
    "&#1114112;",
    "&lt",
    "\\u003cscript\\u003e",
    "%3Cscript%3E",
    "+ADw-script+AD4-",
    # CSS
    "expression(alert(1))",
    "</style>{}*{color:red}",
    "\\3c script\\3e",
    "url('javascript:alert(1)')",
    "*/ body{display:none} /*",
    # control characters, terminals, null bytes
    "\x00",
    "a\x00b",
    "\x07\x08\x0b\x0c\x1b[31m\x1b]0;pwned\x07",
    "\x1b[2J\x1b[H",
    "\r\n\r\nHTTP/1.1 200",
    "\x7f\x80\x9b31m",
    "\u0085",
    "\u2028\u2029",
    "\ufffe\uffff",
    "\U0001fffe",
    "\ufdd0",
    "\U000e0041",
    # directions, invisible and combining characters, emoji
    "\u202eevil\u202c",
    "\u2066\u2067\u2068abc\u2069",
    "\u200e\u200f\u061c",
    "\u05e9\u05dc\u05d5\u05dd <b>",
    "\u200b\u200c\u200d\ufeff\u00ad",
    "e" + "\u0301" * 50,
    "\U0001f9d1\u200d\U0001f52c\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "\u5b57 \u0928\u093f \u0e01\u0e34",
    "\u2126\u212b\ufb01",
    # lone surrogates, alone and inside markup
    "\ud800",
    "\udfff",
    "a\udc80b",
    "\udc00\ud800",
    "<b>\ud83d</b>",
    # what other formats make of text
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "../../../../etc/passwd",
    "C:\\\\con",
    "'; DROP TABLE cells; --",
    "$(touch pwned)",
    "`id`",
    "| tee x",
    "NaN",
    "Infinity",
    "null",
    "true",
    "-0",
    "1e999",
    "[]",
    "{}",
    "\\",
    '"',
    "'",
    "`",
    "::",
    "[x]",
    "test_x[y]",
    "a::b::c",
    "#cells",
    "?visible=none",
    "",
    " ",
    "\t",
    "\n",
    "-",
    "--help",
    "-k x",
    "!r",
    "{x!r:>10}",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "$1$&$`",
    # lengths
    "x" * 5_000,
    "<" * 3_000,
    "\u202e" * 3_000,
    "a " * 3_000,
    "$\\frac{1}{" * 50,
    "\ud800" * 2_000,
)
LONG = (
    "x" * LINE,
    f"<img src=x onerror={PWN}>" * (LINE // 60),
    "\x1b[31m" * (LINE // 5),
    "word " * (LINE // 5),
)

INSERTED = ("\x00", "\u202e", "\ud800", "\x1b[0m", "</script>", '"')

MUTATIONS: Sequence[Callable[[str, random.Random], str]] = (
    lambda text, chance: text.upper(),
    lambda text, chance: text.swapcase(),
    lambda text, chance: text[::-1],
    lambda text, chance: f"\"'>{text}<'\"",
    lambda text, chance: text.replace("<", "<\x00").replace("=", " =\n"),
    lambda text, chance: text.replace(" ", "/"),
    lambda text, chance: text.replace("<", "&lt;").replace('"', "&quot;"),
    lambda text, chance: text + chance.choice(SEEDS),
    lambda text, chance: chance.choice(SEEDS) + text,
    lambda text, chance: _with_inside(text, chance.choice(INSERTED), chance),
    lambda text, chance: "".join(chance.choice((letter, f"&#{ord(letter)};")) for letter in text[:300]),
    lambda text, chance: text.encode("utf-8", "surrogatepass").decode("latin-1"),
)


def hostile_strings() -> list[str]:
    """``COUNT`` different strings, the same each time; four of them are a megabyte long."""
    chance = random.Random(SEED)
    strings = dict.fromkeys((*SEEDS, *LONG))
    while len(strings) < COUNT:
        strings[chance.choice(MUTATIONS)(chance.choice(SEEDS), chance)] = None
    return list(strings)


def _with_inside(text: str, what: str, chance: random.Random) -> str:
    place = chance.randrange(len(text) + 1)
    return text[:place] + what + text[place:]
