"""One run of ``lab build``, in namespaces of its own: ``python -m coldmem.lab.build_case``.

Reads a `BuildCase` as one line of JSON from stdin, then a line for each further step; prints one line
for each step that is done (`STEPS`). Owns: a tmpfs, which nobody outside sees, and which ends with the
last process of this mount namespace, however that comes about.
Guarantees: only the programs that it starts are in the cgroup, and what they write into the tmpfs is
charged there; this interpreter is not. The result is read when the limit is lifted.
Assumes: it is the first process of a PID namespace (see `build_run`), so nothing outlives it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

#: Ready to be measured; measured; read.
STEPS = ("ready", "built", "read")
LAST_WORDS = 1500  # of a failed program, in characters
DIGEST_BYTES = 1 << 20  # read at a time
OBJECTS = ("vmlinux", "bzImage")  # beside all *.o
#: Joins a cgroup, then becomes another program: nothing of ours is ever charged.
JOIN = 'echo 0 >"$1" && shift && exec "$@"'
#: All that a build could take from its surroundings and write into what it builds.
ENVIRONMENT = {
    "LC_ALL": "C",
    "TZ": "UTC",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "coldmem",
    "KBUILD_BUILD_HOST": "coldmem",
    "KBUILD_BUILD_VERSION": "1",
    "SOURCE_DATE_EPOCH": "0",
}
KEPT = ("PATH", "HOME", "TMPDIR")  # of our own environment; flags for make would be others'


@dataclass(frozen=True, slots=True)
class BuildCase:
    """What the child is to do.

    Attributes
    ----------
    tree : str
        An empty directory, where the tmpfs goes. The same in all runs that are compared.
    join_path : str
        ``cgroup.procs`` of the cgroup.
    source : str
        Copied into the tmpfs, by a program in the cgroup; empty: nothing.
    prepare, measure : list of list of str
        Programs that are run in the tmpfs, one after the other: first those that are not measured.
    all_files : bool
        Every file that is left is part of the result; else objects, vmlinux and bzImage.
    """

    tree: str
    join_path: str
    source: str
    prepare: list[list[str]]
    measure: list[list[str]]
    all_files: bool = False

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


class ProgramFailedError(Exception):
    """A program ended with another code than 0; the message has its last words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _last_words(file: IO[bytes]) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - LAST_WORDS))
    return file.read().decode(errors="replace").strip()


def run_inside(case: BuildCase, command: list[str]) -> tuple[float, float]:
    """Run `command` in the cgroup and the tmpfs: user and system seconds of it and its children.

    Raises
    ------
    ProgramFailedError
        It ended with another code than 0, or by a signal (then `code` is negative).
    """
    environment = {k: os.environ[k] for k in KEPT if k in os.environ} | ENVIRONMENT
    with tempfile.TemporaryFile() as words:  # not in the tmpfs: it is nothing of the build's
        child = subprocess.Popen(
            ["sh", "-c", JOIN, "sh", case.join_path, *command], cwd=case.tree, env=environment,
            stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            how = f"ended with {child.returncode}"
            if child.returncode < 0:
                how = f"was ended by signal {-child.returncode}"
            raise ProgramFailedError(
                child.returncode, f"{' '.join(command)} {how}: {_last_words(words) or 'no message'}"
            )
    return usage.ru_utime, usage.ru_stime


def result_files(tree: Path, all_files: bool) -> Iterator[Path]:
    """The files that count, in the order of their names."""
    found = []
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            wanted = all_files or name.endswith(".o") or name in OBJECTS
            if wanted and path.is_file() and not path.is_symlink():
                found.append(path)
    yield from sorted(found)


def digests(tree: Path, all_files: bool) -> dict[str, str]:
    """SHA-256 of each file that counts, by its name in the tree."""
    found = {}
    for path in result_files(tree, all_files):
        state = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(DIGEST_BYTES):
                state.update(piece)
        found[str(path.relative_to(tree))] = state.hexdigest()
    return found


def read_all(folder: Path) -> None:
    """Read every file, so that they are in the page cache, charged to whoever is not in the cgroup."""
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            if not file.is_symlink():
                with file.open("rb") as opened:
                    while opened.read(DIGEST_BYTES):
                        pass


def _say(step: str, **fields: Any) -> None:
    print(json.dumps({"step": step, **fields}), flush=True)


def _wait() -> None:
    if not sys.stdin.readline():
        raise SystemExit(1)  # whoever measures is gone


def main() -> None:
    """Every step, each when it is told to."""
    case = BuildCase(**json.loads(sys.stdin.readline()))
    # Private already: `unshare` made it so. No size of its own: the cgroup's is the limit.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100%,mode=0700", "coldmem-lab", case.tree], check=True
    )
    if case.source:
        read_all(Path(case.source))
    try:
        start_s = time.monotonic()
        if case.source:
            run_inside(case, ["cp", "-a", f"{case.source}/.", "."])
        copied_s = time.monotonic()
        for command in case.prepare:
            run_inside(case, command)
        ready_s = time.monotonic()
        _say("ready", copy_s=copied_s - start_s, prepare_s=ready_s - copied_s)
        _wait()
        start_s, user_s, sys_s = time.monotonic(), 0.0, 0.0
        for command in case.measure:
            user, system = run_inside(case, command)
            user_s, sys_s = user_s + user, sys_s + system
        _say("built", real_s=time.monotonic() - start_s, user_s=user_s, sys_s=sys_s)
    except ProgramFailedError as error:
        _say("failed", code=error.code, message=str(error))
        return
    _wait()
    try:
        _say("read", files=digests(Path(case.tree), case.all_files))
    except OSError as error:  # what was swapped out cannot be read back
        _say("failed", code=1, message=f"{error.filename or 'a file'}: {error.strerror}")


if __name__ == "__main__":
    main()
