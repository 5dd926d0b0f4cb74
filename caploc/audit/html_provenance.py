"""Where the run's numbers come from, as a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from caploc.audit.html_parts import scroll
from caploc.audit.session import Books
from caploc.audit.summary import fingerprints
from caploc.audit.text import escaped

_SHOWN_ELSEWHERE = ("models", "datasets", "departures")


def provenance_table(books: Books) -> str:
    """Commit, command, packages, settings, the rules' digest, and the fingerprints of models and data."""
    head: Mapping[str, Any] = next(iter(books.ledger.read()), {})
    commit = head.get("commit")
    state = "outside a repository" if commit is None else "dirty" if head.get("dirty") else "clean"
    packages = head.get("packages", {})
    paper = head.get("paper", {})
    entries: dict[str, Any] = {
        "commit": f"{commit or '-'} ({state})",
        "command": shlex.join(["pytest", *head.get("command", ())]),
        "started": head.get("started"),
        "python": head.get("python"),
        "platform": head.get("platform"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        f"rules of {paper.get('key')}": f"sha256 {paper.get('digest')}",
    }
    for name, value in head.get("settings", {}).items():
        if name not in _SHOWN_ELSEWHERE and value not in (None, [], {}):
            entries[f"setting {name}"] = value
    entries |= fingerprints(books.results)
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td><bdi>{escaped(value)}</bdi></td></tr>'
        for name, value in entries.items()
    )
    table = f'<table class="audit"><tbody>{rows}</tbody></table>'
    return f'<h2 id="provenance">Provenance</h2>{scroll(table)}'
