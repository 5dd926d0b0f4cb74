"""`python -m caploc.store`: what it says of a store, and what it removes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from caploc.fingerprints import fingerprint
from caploc.store import Store, StoreWarning, host_name
from caploc.store.__main__ import SECONDS_A_DAY, main
from caploc.tests.test_store import HeldElsewhere

KEYS = [fingerprint(["entry", number]) for number in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four entries of two kinds, the first 30 days old, the second 20."""
    made = Store(tmp_path)
    for number, key in enumerate(KEYS):
        made.put(key, {"x": np.zeros(1000)}, {}, f"{'scores' if number else 'figure'} of tiny-llama")
        written = time.time() - max(0, 30 - 10 * number) * SECONDS_A_DAY * (number < 2)
        os.utime(made.path(key), (written, written))
    return made


def test_ls_counts_by_title_without_stumbling(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.path(KEYS[3]).unlink()
    os.mkfifo(store.path(KEYS[3]))
    assert main(["ls", "--store", str(store.root)]) == 0
    lines = [line.split(None, 3) for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[3]) for line in lines] == [
        ("2", "scores of tiny-llama"),
        ("1", "figure of tiny-llama"),
        ("1", "damaged"),
        ("4", f"in {store.root}, and 0 set aside"),
    ]


def test_verify_names_what_is_damaged_and_moves_it_only_if_asked(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", "--store", str(store.root)]
    assert main(command) == 0
    store.path(KEYS[0]).write_bytes(b"broken")
    store.path(KEYS[1]).unlink()
    store.path(KEYS[1]).symlink_to(store.path(KEYS[1]))
    assert main(command) == 1
    said = capsys.readouterr().out
    assert f"damaged, as it has no checksum: {store.path(KEYS[0])}" in said
    assert f"damaged, as it cannot be read: Too many levels of symbolic links: {store.path(KEYS[1])}" in said
    assert store.describe().damaged == 0
    with pytest.warns(StoreWarning, match="moved to"):
        assert main([*command, "--set-aside"]) == 1
    assert (store.describe().damaged, main(command)) == (2, 0)


def left(store: Store) -> set[str]:
    return {path.name for path in store.root.rglob("*") if not path.is_dir()}


def test_gc_removes_what_nobody_needs_and_entries_only_if_asked(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.path(KEYS[0]).parent
    (store.root / "damaged" / "x.0.safetensors").mkdir(parents=True)
    stale, busy = (folder / f".{fingerprint(name)}.{host_name()}.tmp" for name in ("stale", "busy"))
    elsewhere, old = (folder / f".{fingerprint(name)}.another.tmp" for name in ("elsewhere", "old"))
    for path in (stale, busy, elsewhere, old):
        path.touch()
    os.utime(old, (0, 0))
    before = left(store)
    command = ["gc", "--store", str(store.root)]
    with HeldElsewhere(store, fingerprint("busy")):
        assert main([*command, "--dry-run", "--keep", "0", "--older-than", "1"]) == 0
        assert left(store) - before == {f"{fingerprint('busy')}.lock"}
        assert "would remove 4 old entries" in capsys.readouterr().out
        assert main(command) == 0
    assert {stale.name, old.name}.isdisjoint(left(store)) and {busy.name, elsewhere.name} <= left(store)
    assert store.kept() == sorted(KEYS) and not any((store.root / "damaged").iterdir())
    assert main([*command, "--older-than", "25"]) == 0
    assert store.kept() == sorted(KEYS[1:])
    size = store.path(KEYS[2]).stat().st_size
    assert main([*command, "--keep", f"{2 * size}"]) == 0
    assert store.kept() == sorted(KEYS[2:])  # the newest


@pytest.mark.parametrize("arguments", [["gc", "--keep", "much"], ["gc", "--older-than", "-1"], ["fsck"], []])
def test_nonsense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2


def test_as_a_command(store: Store) -> None:
    store.path(KEYS[0]).write_bytes(b"")
    command = [sys.executable, "-W", "error", "-m", "caploc.store"]
    environment = os.environ | {"CAPLOC_STORE": str(store.root)}
    ran = subprocess.run([*command, "verify"], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "") and "4 entries" in ran.stdout
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "gc --older-than 90 --keep 5G" in helped.stdout
