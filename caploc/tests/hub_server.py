"""A local server that plays the hub, for tests of what is fetched and of every way in which it fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Answer = Callable[[str], tuple[int, dict[str, str], bytes]]


@dataclass
class FakeHub:
    """Models and datasets as (repository, commit) -> {file: content}, whose files it refuses, and requests so far."""

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """What the hub says of ``/api/models/ORG/NAME/revision/COMMIT``, ``/ORG/NAME/resolve/COMMIT/FILE`` ..."""
        self.requests.append(path)
        if self.broken:
            return 503, {}, b""
        parts = (
            path.replace("/api/models/", "/")
            .replace("/api/", "/")
            .replace("/datasets/", "/")
            .strip("/")
            .split("/")
        )
        repository, kind, commit, name = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        if repository not in {known for known, _ in self.files}:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if repository in self.gated and kind == "resolve":  # what a gated repository is called stays public
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if (repository, commit) not in self.files:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        content = self.files[repository, commit]
        if kind == "revision":
            siblings = [{"rfilename": name} for name in content]
            listing = {"id": repository, "sha": commit, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(listing).encode()
        if kind == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": sha256(data).hexdigest()[:40]}
                for name, data in content.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
        if name not in content:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{sha256(content[name]).hexdigest()}"'}, content[name]


@contextmanager
def serving(answer: Answer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the hub's client talk to ``answer(path) -> (status, headers, body)``, with an empty cache in ``cache``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache))
    yield
    server.shutdown()
    server.server_close()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Point the hub's client at ``endpoint``."""
    monkeypatch.setattr(hub_constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
