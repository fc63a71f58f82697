"""Where cgroup hierarchies are mounted. Reads only; owns nothing, takes no locks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mount.

    Attributes
    ----------
    version : int
        1 or 2.
    root : str
        What of the hierarchy is mounted there.
    folder : Path
    options : list of str
        Of the file system: for version 1 the controllers are among them.
    """

    version: int
    root: str
    folder: Path
    options: list[str]


def cgroup_mounts(proc: Path = Path("/proc/self")) -> Iterator[CgroupMount]:
    """Each mount of a cgroup hierarchy.

    Parameters
    ----------
    proc : Path
        Where to read, for tests.
    """
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        root, mounted = fields.split()[3:5]
        name, _, options = kind.split(" ", 2)
        if name in ("cgroup", "cgroup2"):
            yield CgroupMount(
                1 if name == "cgroup" else 2, root, Path(mounted), options.split()[-1].split(","))
