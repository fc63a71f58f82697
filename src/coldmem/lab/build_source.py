"""What is built by ``lab build``: the kernel's source, unpacked once, and the tools for it.

Owns: nothing; the folder it unpacks into is the caller's. Takes no locks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from coldmem.errors import EnvironmentFailure, UsageError

#: Programs, and Debian's packages that have them.
BUILD_TOOLS = {
    "make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils",
    "tar": "tar", "cp": "coreutils",
}
RUN_TOOLS = {"unshare": "util-linux", "mount": "mount", "losetup": "mount"}
NBD_TOOLS = {"nbdfuse": "libnbd-bin", "umount": "mount"}
HEADERS = {"/usr/include/libelf.h": "libelf-dev"}
SOURCES = Path("/usr/src")
PATTERN = "linux-source-*.tar.xz"


def missing_packages(tools: dict[str, str], headers: dict[str, str] | None = None) -> list[str]:
    """Debian's packages that have what is not here, in alphabetical order."""
    found = {package for tool, package in tools.items() if shutil.which(tool) is None}
    found |= {package for path, package in (headers or {}).items() if not Path(path).exists()}
    return sorted(found)


def require(tools: dict[str, str], headers: dict[str, str] | None = None) -> None:
    """EnvironmentFailure that names the packages to install, where something is missing."""
    missing = missing_packages(tools, headers)
    if missing:
        raise EnvironmentFailure(
            f"something is missing for this: apt install {' '.join(missing)} (Debian's names)"
        )


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def find_archive(folder: Path = SOURCES) -> Path:
    """The newest of Debian's archives of the kernel's source."""
    found = sorted(folder.glob(PATTERN), key=_version)
    if not found:
        raise EnvironmentFailure(
            f"there is no kernel source ({folder / PATTERN}): apt install linux-source, or give "
            "--source PATH, an archive or an unpacked tree"
        )
    return found[-1]


def unpacked(source: Path | None, work: Path) -> Path:
    """A tree of the kernel's source, outside of any limit.

    Parameters
    ----------
    source : Path, optional
        An archive, or a tree, which is used where it is. Default: Debian's newest archive.
    work : Path
        Where an archive is unpacked; what was unpacked there before is used again.

    Raises
    ------
    EnvironmentFailure, UsageError
        There is none, or it is no kernel.
    """
    source = source or find_archive()
    if source.is_dir():
        tree = source
    elif source.is_file():
        tree = work / source.name.partition(".tar")[0]
        if not tree.exists():
            _unpack(source, tree)
    else:
        raise UsageError(f"--source: there is no {source}")
    if not (tree / "Makefile").is_file() or not (tree / "scripts" / "Makefile.build").is_file():
        raise UsageError(f"--source: {source} is no kernel source: it has no scripts/Makefile.build")
    if (tree / "vmlinux").exists() or (tree / ".config").exists():
        raise UsageError(f"--source: {source} has been built already: make mrproper there first")
    return tree.absolute()


def _unpack(archive: Path, tree: Path) -> None:
    unready = tree.with_name(f".{tree.name}.unready")
    shutil.rmtree(unready, ignore_errors=True)
    unready.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["tar", "-xf", str(archive), "-C", str(unready), "--strip-components=1"],
            capture_output=True, text=True, check=False,
        )
        if done.returncode != 0:
            raise EnvironmentFailure(f"{archive} cannot be unpacked: {done.stderr.strip()[-300:]}")
        unready.rename(tree)
    finally:
        shutil.rmtree(unready, ignore_errors=True)
