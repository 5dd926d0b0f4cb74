"""Holding on to freed memory: where glibc is there it says so, elsewhere it does nothing."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from caploc.rows import sizing as allocator


def test_it_does_nothing_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")
def test_glibc_takes_the_settings() -> None:
    """In a process of its own, since it cannot be undone."""
    code = "from caploc.rows.sizing import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
