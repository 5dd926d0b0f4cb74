"""Pages opened in headless Chromium: what they report of themselves, what goes wrong in them, how they look."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium on the PATH (Debian: apt-get install chromium)"
)
SECONDS = 60
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr",
)  # fmt: skip
# dialogs would wait for an answer; whatever calls them is recorded as any other mishap is
_WATCH = """<script>
window.mishaps = [];
for (const name of ["alert", "confirm", "prompt", "print", "open"])
  window[name] = (text) => { mishaps.push(`${name}(${text})`); };
addEventListener("error", (event) => {
  if (event.message) mishaps.push(event.message);
  else if (event.target.getAttribute("src")) mishaps.push(`could not load ${event.target.outerHTML}`);
}, true);  // pytest-html leaves images without a source in its rows
addEventListener("unhandledrejection", (event) => mishaps.push(`rejected: ${event.reason}`));
</script>"""
_REPORT = """<script nonce="visit">
addEventListener("load", () => {
  document.body.offsetHeight;  // what is in view is laid out
  const loaded = performance.now();
  let said;
  try { said = (() => { %s })(); } catch (error) { mishaps.push(String(error)); }
  document.body.innerHTML = "";
  const report = document.createElement("pre");
  report.id = "said";
  report.textContent = JSON.stringify({ said, loaded, mishaps, title: document.title });
  document.body.append(report);
});
</script></body>"""


@dataclass(frozen=True)
class Visit:
    """What a page answered, the milliseconds until it was laid out, and every error, dialog and console message."""

    said: Any
    loaded: float
    mishaps: list[str]
    title: str


def visit(page: Path, script: str = "", *options: str) -> Visit:
    """Opens a copy of the page in which ``script``, the body of a function, runs once it is loaded."""
    text = page.read_text(encoding="utf-8")
    assert text.count("<head>") == text.count("</body>") == 1
    text = text.replace("<head>", "<head>" + _WATCH).replace("</body>", _REPORT % script)
    text = text.replace("; script-src ", "; script-src 'nonce-visit' ", 1)  # the page's own policy
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.html"
        copy.write_text(text, encoding="utf-8")
        output, log = _run(copy, "--dump-dom", *options)
    found = re.search('<pre id="said">(.*?)</pre>', output, re.DOTALL)
    assert found is not None, "the page did not report back"
    report = json.loads(html.unescape(found.group(1)))
    report["mishaps"] += re.findall(r":CONSOLE\S* (.*)", log)
    return Visit(said=report.pop("said", None), **report)


def in_frame(page: Path, to: Path, width: int) -> Path:
    """A page that shows another in a frame of any width; Chromium's own windows are 500 pixels wide at least."""
    inside = html.escape(page.read_text(encoding="utf-8"))
    to.write_text(
        '<!doctype html><html><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        "<title>frame</title></head>"
        f'<body><iframe style="border: 0; width: {width}px; height: 2000px" srcdoc="{inside}"></iframe></body></html>',
        encoding="utf-8",
    )
    return to


def screenshot(page: Path, to: Path, width: int, height: int, dark: bool = False) -> None:
    """A picture of the page in a window of this size."""
    mode = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    _run(page, f"--screenshot={to}", f"--window-size={width},{height}", *mode)


def _run(page: Path, *options: str) -> tuple[str, str]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={folder}", *options, page.as_uri()],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            return process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"chromium did not finish with {page.name} within {SECONDS} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
