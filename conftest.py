"""pytest's options, markers and fixtures for claims/, and pytester for the library's own tests of them."""

from __future__ import annotations

pytest_plugins = ["caploc.audit.plugin", "pytester"]
