"""pytest's options, markers and fixtures for claims/, and pytester for the library's own tests of them."""

from __future__ import annotations

import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Loads the plugins, as ``pytest_plugins`` does, but where this repository is a folder of another project, too."""
    for name in ("caploc.audit.plugin", "pytester"):
        pluginmanager.import_plugin(name)
