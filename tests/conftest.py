"""What all tests share: threads that start together, how long a stress test runs, small disks."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest


def _run_threads(*jobs: Callable[[], object]) -> list[object]:
    """Run each job in a thread of its own, all let go at once; their results, in order.

    The first exception of a job is raised here, when all threads have ended.
    """
    gate = threading.Barrier(len(jobs))
    results: list[object] = [None] * len(jobs)
    errors: list[BaseException] = []

    def body(index: int, job: Callable[[], object]) -> None:
        gate.wait()
        try:
            results[index] = job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.fixture
def run_threads() -> Callable[..., Sequence[object]]:
    """`run_threads(job, job, ...)`: each in a thread; results in order; exceptions raised."""
    return _run_threads


@pytest.fixture
def stress_seconds() -> float:
    """How long one stress test runs: short in the suite, long under ``make soak``."""
    return float(os.environ.get("COLDMEM_STRESS_SECONDS", "1"))


@pytest.fixture
def sanitized() -> str:
    """`thread` or `address` where the engine is built with that sanitizer, else an empty string."""
    return os.environ.get("COLDMEM_SANITIZE", "")


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`mount_disk("4m")`: a folder that is a file system of that size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("NOT TESTED: a really full disk; only root can mount one")
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "coldmem-test",
                               folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"NOT TESTED: a really full disk; mount failed: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)
