"""Leases: which process computes an entry right now, on any file system and from any machine.

A lease is a small file that names its holder. It appears whole or not at all, under a name that must be free (a hard
link, which every POSIX file system makes atomically, NFS included; locks of the operating system exclude nothing on
some of them). While it lives, its holder touches it every `BEAT_SECONDS`. A lease has expired

- at once, where its holder was a process of this machine that is no longer there;
- where nobody has touched it for `EXPIRY_SECONDS`, by the watching process's own clock: machines' clocks differ.

An expired lease is never removed by others, who could then remove each other's: they take the next number. Nor is one
that is given back without an entry: who saw it a moment ago must not find its number free. It says so instead, and all
are removed once the entry is there.

    KEY.lock        the first holder's
    KEY.1.lock      of who took over from it; the highest number holds

A holder that was only thought dead finds the higher number (`Lease.lost_to`), as does one whose file system let two of
them make the same file.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from caploc.fingerprints import code_hash

BEAT_SECONDS, EXPIRY_SECONDS = 10.0, 90.0
"""Nine beats may be missed: a busy file server takes its time, and file systems remember times for up to a minute."""
_GIVEN_BACK = b"given back"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True)
class Holder:
    """The process that a lease belongs to. ``started`` tells it from a later one of its number."""

    lease: str
    machine: str
    host: str
    process: int
    started: str
    code: str

    @property
    def shown(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def lives(self) -> bool | None:
        """Whether the process is there; None where this machine cannot tell."""
        if self.machine != _machine():
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # another user's
        started = _started(self.process)
        return None if started is None else started == self.started


@dataclass(eq=False)
class Lease:
    """A lease of this process; the thread that holds it may take it again."""

    path: Path
    holder: Holder
    times: int = 1
    thread: int = field(default_factory=threading.get_ident)

    def lost_to(self) -> str | None:
        """Who else holds the entry by now, None where nobody does."""
        mine, above = _read(self.path), _read(_next(self.path))
        if above is None and mine is not None and mine[1] == self.holder:
            return None
        other = above or mine
        return other[1].shown if other and isinstance(other[1], Holder) else "a process that is done with it"

    def beat(self) -> None:
        """Tells the others that the holder lives."""
        if self.lost_to() is None:
            with suppress(OSError):  # others will take over, and that is found out
                os.utime(self.path)


_held: dict[tuple[Path, str], Lease] = {}
_guard = threading.Lock()
_heart: threading.Thread | None = None
_seen: dict[Path, tuple[object, float]] = {}


def acquire(folder: Path, key: str) -> Lease | Holder | None:
    """The lease of an entry; or, where it is busy, who holds it, None where that cannot be told."""
    with _guard:
        mine = _held.get((folder, key))
        if mine is not None:
            if mine.thread != threading.get_ident():
                return mine.holder
            mine.times += 1
            return mine
    last, free = _highest(folder, key)
    if last is not None:
        found = _read(last)
        if found is None:
            return None  # it has just been given back
        if not _expired(last, *found):
            return found[1] if isinstance(found[1], Holder) else None
    lease = Lease(free, _myself())
    if not exclusive(free, _content(lease.holder)):
        return None
    _seen.pop(free, None)
    with _guard:
        _held[folder, key] = lease
        _start_heart()
    return lease


def release(lease: Lease, folder: Path, key: str, finished: bool) -> None:
    """Gives a lease back as often as it was taken; of a ``finished`` entry nothing is left."""
    with _guard:
        lease.times -= 1
        if lease.times:
            return
    with suppress(OSError):
        if lease.lost_to() is not None:
            pass  # what is there is another's
        elif finished:
            clear(folder, key)
        else:
            lease.path.write_bytes(_GIVEN_BACK)
    with _guard:
        _held.pop((folder, key), None)


def clear(folder: Path, key: str) -> None:
    """Removes all leases of a key, the one that holds first."""
    for path in reversed(list(itertools.takewhile(os.path.lexists, _paths(folder, key)))):
        path.unlink()


def exclusive(path: Path, content: bytes) -> bool:
    """Makes a file with this content, whole, where there is none; False where there is one."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.new")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        pass  # an answer that a server repeats: the content tells whose it is
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):
        return path.read_bytes() == content
    return False


@cache
def excludes(folder: Path) -> bool:
    """Whether the file system refuses a second file of one name: without that, no lease means anything."""
    path = folder / f".{uuid.uuid4().hex}.probe"
    try:
        return exclusive(path, b"one") and not exclusive(path, b"another")
    finally:
        with suppress(OSError):
            path.unlink()


def _paths(folder: Path, key: str) -> itertools.chain[Path]:
    return itertools.chain([folder / f"{key}.lock"], (folder / f"{key}.{n}.lock" for n in itertools.count(1)))


def _next(path: Path) -> Path:
    key, _, number = path.name.removesuffix(".lock").partition(".")
    return path.with_name(f"{key}.{int(number or 0) + 1}.lock")


def _highest(folder: Path, key: str) -> tuple[Path | None, Path]:
    """The lease that holds, and the name of the one after it."""
    last = None
    for path in _paths(folder, key):
        if not os.path.lexists(path):
            return last, path
        last = path
    raise AssertionError


def _read(path: Path) -> tuple[object, Holder | bytes] | None:
    """When a lease was touched last, and its holder, or its bytes where they name none; None where it is gone."""
    try:
        with path.open("rb") as file:  # opened, so that file systems over a network ask their server
            stamp, content = os.fstat(file.fileno()).st_mtime_ns, file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None
        raise
    try:
        return stamp, Holder(**json.loads(content))
    except (ValueError, TypeError):
        return stamp, content


def _expired(path: Path, stamp: object, holder: Holder | bytes) -> bool:
    if holder == _GIVEN_BACK:
        return True
    lives = holder.lives if isinstance(holder, Holder) else None
    if lives is not None:
        return not lives
    now, what = time.monotonic(), (stamp, holder)
    seen, since = _seen.get(path, (None, now))
    if seen != what:
        _seen[path] = what, now
        return False
    return now - since > EXPIRY_SECONDS


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _myself() -> Holder:
    process = os.getpid()
    started = _started(process) or ""
    return Holder(uuid.uuid4().hex, _machine(), platform.node(), process, started, code_hash())


@cache
def _machine() -> str:
    """This machine since it was started, and what its processes are numbered in."""
    boot, space = "", 0
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").stat().st_ino
    return f"{platform.node()} {boot} {space}"


def _started(process: int) -> str | None:
    """When a process began, in the kernel's own count; "" where it has ended, None where this cannot be told."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else None
    except OSError:
        return None
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _start_heart() -> None:
    global _heart  # noqa: PLW0603 - one a process
    if _heart is None:
        _heart = threading.Thread(target=_beat, name="caploc-leases", daemon=True)
        _heart.start()


def _beat() -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        with _guard:
            leases = list(_held.values())
        for lease in leases:
            with suppress(OSError):
                lease.beat()


def _after_fork() -> None:
    """A child holds nothing: its parent goes on."""
    global _guard, _heart
    _guard, _heart = threading.Lock(), None
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
