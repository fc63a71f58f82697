"""Build coldmem under a sanitizer, in a tree of its own, and run tests with it.

``sanitize.py thread``: the tests marked `tsan` under ThreadSanitizer. It fails on any report, and
also when the race planted in `coldmem.testing.planted` is *not* reported.
``sanitize.py address``: the whole suite under AddressSanitizer, with a planted read out of bounds
that it must catch.

CPython is not instrumented. Its GIL is a pthread mutex, which the sanitizer's runtime intercepts,
so handing the GIL over orders memory accesses as it should; what other uninstrumented libraries
do among themselves is not looked at (`ignore_noninstrumented_modules`).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "tools", "docs", ".ci", "Makefile", "setup.py", "pyproject.toml",
          "README.md", "CONTRIBUTING.md", "LICENSE")
RUNTIME = {"thread": "libtsan.so", "address": "libasan.so"}
REPORT_EXIT = 66

# second_deadlock_stack: a lock-order report that names both places.
OPTIONS = {
    "thread": {
        "TSAN_OPTIONS": f"halt_on_error=0:exitcode={REPORT_EXIT}:second_deadlock_stack=1:"
        "ignore_noninstrumented_modules=1:history_size=4",
    },
    # CPython keeps memory until the process ends, so leaks are not looked for; PYTHONMALLOC lets
    # the sanitizer see each Python object as an allocation of its own. SIGBUS and SIGSEGV are not for
    # it: they end those child processes that tests expect to end so, and any other by its exit code.
    "address": {
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode={REPORT_EXIT}:abort_on_error=0:"
        "handle_segv=0:handle_sigbus=0",
        "PYTHONMALLOC": "malloc",
    },
}

PLANTED = {
    "thread": """
import threading
from coldmem.testing.planted import PlantedRace
race, gate = PlantedRace(), threading.Barrier(2)
def body():
    gate.wait()
    race.run(20_000_000)
threads = [threading.Thread(target=body) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
""",
    "address": """
from coldmem.testing.planted import read_past_end
read_past_end(100)
""",
}
SAYS = {"thread": "ThreadSanitizer: data race", "address": "AddressSanitizer: heap-buffer-overflow"}


def runtime(kind: str) -> str:
    """Path of the sanitizer's runtime, which must be loaded before Python's own libraries."""
    cc = os.environ.get("CC", "gcc").split()
    name = subprocess.run(
        [*cc, f"-print-file-name={RUNTIME[kind]}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not os.path.isabs(name):
        sys.exit(f"{cc[0]} has no {RUNTIME[kind]}: install it (Debian: libgcc-12-dev and the like)")
    return name


def exceptions(kind: str) -> list[str]:
    """AddressSanitizer ends a process that throws in C++ if that runtime was loaded after its own."""
    if kind != "address":
        return []
    cc = os.environ.get("CC", "gcc").split()
    name = subprocess.run(
        [*cc, "-print-file-name=libstdc++.so.6"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return [name] if os.path.isabs(name) else []


def copy_tree(tree: Path) -> None:
    """Bring the copy up to date; unchanged files keep their time, so that little is rebuilt."""
    tree.mkdir(parents=True, exist_ok=True)
    wanted = set()
    for top in COPIED:
        source = ROOT / top
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for path in files:
            if path.is_dir() or path.suffix in {".so", ".pyc"} or "_build" in path.parts:
                continue
            wanted.add(path.relative_to(ROOT))
    for path in wanted:
        there = tree / path
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists() or there.read_bytes() != (ROOT / path).read_bytes():
            shutil.copyfile(ROOT / path, there)
    for top in ("src", "tests"):
        for path in (tree / top).rglob("*"):
            if (path.is_file() and path.suffix not in {".so", ".pyc"}
                    and path.relative_to(tree) not in wanted):
                path.unlink()


def environment(kind: str, tree: Path) -> dict[str, str]:
    # Everything is slower in there, so the thread tests get longer for it.
    stress = {"COLDMEM_STRESS_SECONDS": "2"} if kind == "thread" else {}
    return stress | os.environ | OPTIONS[kind] | {
        "COLDMEM_SANITIZE": kind,
        "PYTHONPATH": str(tree / "src"),
        "LD_PRELOAD": " ".join([runtime(kind), *exceptions(kind)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def without_aslr() -> list[str]:
    """ThreadSanitizer of older compilers cannot live with the address layout of newer kernels."""
    setarch = shutil.which("setarch")
    if setarch and subprocess.run([setarch, "-R", "true"], capture_output=True).returncode == 0:
        return [setarch, "-R"]
    return []


def main(kind: str, arguments: list[str]) -> int:
    tree = ROOT / "build" / kind
    copy_tree(tree)
    print(f"== compiling under -fsanitize={kind} in {tree.relative_to(ROOT)}", flush=True)
    jobs = str(len(os.sched_getaffinity(0)))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", jobs],
        cwd=tree, env=os.environ | {"COLDMEM_SANITIZE": kind}, check=True,
    )
    env = environment(kind, tree)
    python = [*without_aslr(), sys.executable]

    where = subprocess.run(
        [*python, "-c", "import coldmem; print(coldmem.__file__)"],
        cwd=tree, env=env, check=True, capture_output=True, text=True,
    ).stdout.strip()
    if not Path(where).is_relative_to(tree):
        sys.exit(f"the sanitized copy is not what Python imports: {where}")

    print("== the planted fault", flush=True)
    canary = subprocess.run(
        [*python, "-c", PLANTED[kind]], cwd=tree, env=env, capture_output=True, text=True
    )
    if canary.returncode != REPORT_EXIT or SAYS[kind] not in canary.stderr:
        print(canary.stdout, canary.stderr, sep="\n", file=sys.stderr)
        sys.exit(f"the planted fault was not caught (exit code {canary.returncode})")
    print("caught, as it must be: " + next(
        line for line in canary.stderr.splitlines() if line.startswith("SUMMARY")
    ).replace(str(tree) + "/", ""))

    print("== the tests", flush=True)
    reports = tree / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    name = "TSAN_OPTIONS" if kind == "thread" else "ASAN_OPTIONS"
    env[name] += f":log_path={reports / 'report'}"
    chosen = ["-m", "tsan"] if kind == "thread" else []
    status = subprocess.run(
        [*python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--timeout", "1200", *chosen,
         *arguments],
        cwd=tree, env=env,
    ).returncode
    found = sorted(reports.iterdir())
    for path in found:
        print(path.read_text(errors="replace"), file=sys.stderr)
    print(f"{kind} sanitizer: reports of {len(found)} processes; pytest ended with {status}")
    return 1 if found or status else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
