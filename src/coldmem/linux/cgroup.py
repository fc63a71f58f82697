"""How much memory this process may have: the machine's, or what a memory cgroup leaves of it.

Reads only. cgroup v2 (``memory.max`` of the group and of all above it, within what is mounted) and v1
(``memory.limit_in_bytes``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # v1 writes "no limit" as a very large number


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The limit that holds for this process.

    Attributes
    ----------
    nbytes : int
    source : str
        The file that says so, or "machine".
    """

    nbytes: int
    source: str


def machine_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _files(root: Path, relative: str, name: str) -> list[Path]:
    """`name` in a group's folder and in all above it, down to the mount's root."""
    folder = root / relative.lstrip("/")
    files = []
    while True:
        files.append(folder / name)
        if folder == root or root not in folder.parents:
            break
        folder = folder.parent
    return files


def memory_limit(proc: Path = Path("/proc/self"), mounts: Path = Path("/sys/fs/cgroup")) -> MemoryLimit:
    """The lowest limit that applies.

    Parameters
    ----------
    proc, mounts : Path
        Where to read, for tests.
    """
    found = [MemoryLimit(machine_bytes(), "machine")]
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    candidates: list[Path] = []
    for line in lines:
        _, controllers, relative = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            candidates += _files(mounts, relative, "memory.max")
        elif "memory" in controllers.split(","):
            candidates += _files(mounts / "memory", relative, "memory.limit_in_bytes")
    # In a container the group's own folder may be mounted as the root.
    candidates += [mounts / "memory.max", mounts / "memory" / "memory.limit_in_bytes"]
    for path in candidates:
        number = _number(path)
        if number is not None:
            found.append(MemoryLimit(number, str(path)))
    return min(found, key=lambda limit: limit.nbytes)
