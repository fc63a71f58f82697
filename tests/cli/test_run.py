"""``coldmem run`` against ``python``: the same program, run both ways, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import coldmem
from coldmem.cli.run import command, split_arguments
from coldmem.linux.userfaultfd import rights_here

needs_userfaultfd = pytest.mark.skipif(
    rights_here() == "none", reason="no userfaultfd here: see `coldmem doctor`"
)
SRC = str(Path(coldmem.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SRC}
PYTHON = [sys.executable]
COLDMEM = [sys.executable, "-m", "coldmem", "run"]
QUIET = [*COLDMEM, "--no-report"]
Done = subprocess.CompletedProcess[str]


def run(words: list[str], where: Path, stdin: str = "") -> Done:
    return subprocess.run(
        words, cwd=where, input=stdin, capture_output=True, text=True, timeout=120,
        env=ENVIRONMENT,
    )


def both(words: list[str], where: Path, stdin: str = "") -> Done:
    """Run it both ways; the same in all that can be seen."""
    ours, theirs = run([*QUIET, *words], where, stdin), run([*PYTHON, *words], where, stdin)
    assert (ours.returncode, ours.stdout, ours.stderr) == (
        theirs.returncode, theirs.stdout, theirs.stderr)
    return ours


SHOW = """
import sys, os
import __main__
print(sys.argv, sys.path[:2], __name__, __main__.__dict__ is globals())
print(__file__ if "__file__" in globals() else None, __spec__ and __spec__.name, __package__)
print(sys.modules["__main__"] is __main__, __builtins__ is sys.modules["builtins"])
print(sorted(k for k in globals() if k != "__annotations__"))
print(sys.stdin.read())
"""

pytestmark = needs_userfaultfd


def test_a_script_sees_what_it_always_sees(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "show.py").write_text(SHOW)
    (tmp_path / "link.py").symlink_to("sub/show.py")
    for path in ("sub/show.py", str(tmp_path / "sub" / "show.py"), "link.py"):
        done = both([path, "a", "--json", "-m", "b c", "--", "-x"], tmp_path, "input\n")
        assert done.returncode == 0 and "input" in done.stdout and "'--json'" in done.stdout


def test_a_module_a_package_a_folder_and_an_archive(tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text(SHOW)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("print('init')")
    (tmp_path / "pack" / "__main__.py").write_text(SHOW)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(SHOW + "import beside\n")
    (tmp_path / "folder" / "beside.py").write_text("print('beside')")
    with zipfile.ZipFile(tmp_path / "a.pyz", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    for words in (["-m", "mod"], ["-mmod"], ["-m", "pack"], ["folder"], ["a.pyz"]):
        assert both([*words, "--unit", "x"], tmp_path).returncode == 0
    assert both(["-m", "json.tool"], tmp_path, '{"a": 1}').stdout == '{\n    "a": 1\n}\n'
    for missing in (["-m", "no_such_module"], ["-m", "mod.x"]):
        assert both(missing, tmp_path).returncode == 1


def test_a_program_from_standard_input(tmp_path: Path) -> None:
    assert both(["-", "x"], tmp_path, "import sys; print(sys.argv, __name__)").returncode == 0


def test_code(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("print('beside')")
    show = SHOW + "print(__loader__)\nimport beside"
    for words in (["-c", show], ["-c" + show], ["-c", show, "-c", "--unit", "x", "-m"]):
        done = both(words, tmp_path, "input\n")
        assert done.returncode == 0 and "['-c'" in done.stdout and "beside" in done.stdout
    for code in ("1 / 0", "def f(:", "raise SystemExit(7)", "import nonsense_module", ""):
        both(["-c", code, "x"], tmp_path)


@pytest.mark.parametrize(("name", "recompressor"), [("auto", True), ("none", False), ("zstd", True)])
def test_cold_codec(name: str, recompressor: bool, tmp_path: Path) -> None:
    code = """if True:
        import threading
        import numpy as np
        print(any(t.name == "coldmem-recompressor" for t in threading.enumerate()))
    """
    done = run([*QUIET, "--cold-codec", name, "-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{recompressor and len(os.sched_getaffinity(0)) > 1}\n"


def test_a_cold_codec_that_does_not_exist(tmp_path: Path) -> None:
    done = run([*QUIET, "--cold-codec", "lzx", "-c", "import numpy; print(1)"], tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("coldmem: ") and "lzx" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("body", "code"), [
    ("import sys; sys.exit(7)", 7),
    ("import sys; sys.exit('a sentence')", 1),
    ("import sys; sys.exit()", 0),
    ("raise SystemExit(None)", 0),
    ("import os; os._exit(9)", 9),
    ("def f():\n    return 1 / 0\n\ntry:\n    f()\nexcept Exception as e:\n"
     "    raise KeyError from e", 1),
    ("def f(:\n", 1),
    ("import nonsense_module", 1),
    ("import sys\nsys.excepthook = lambda *a: print('mine', a[0], a[2] is not None)\n1 / 0", 1),
    ("import sys\nsys.excepthook = lambda *a: 1 / 0\n{}['x']", 1),
    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ("raise KeyboardInterrupt", -signal.SIGINT),
    ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    ("import atexit\natexit.register(print, 'bye')\n1 / 0", 1),
    ("import threading\nthreading.Thread(target=lambda: 1 / 0).start()", 0),
    ("from coldmem.errors import UsageError\nraise UsageError('mine')", 1),
    ("import click\nclick.command()(lambda: 0)(['--nix'])", 2),
    ("raise RecursionError('deep')", 1),
])
def test_every_way_to_end(body: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "end.py").write_text("print('begin', flush=True)\n" + body)
    # From a shell that runs in the background SIGINT comes ignored, and stays so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = run([*QUIET, "end.py"], tmp_path)
    theirs = run([*PYTHON, "end.py"], tmp_path)
    if "Thread" in body or "1 / 0\n{}" in body:  # these tracebacks have a line of ours
        assert ours.returncode == theirs.returncode == code
        assert "ZeroDivisionError" in ours.stderr
        return
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.stderr == theirs.stderr
    assert ours.returncode == code


def test_ctrl_c_while_it_computes(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(
        "import numpy as np\na = np.ones(4 << 20)\nprint('ready', flush=True)\n"
        "while True: a += 1\n"
    )
    process = subprocess.Popen(
        [*COLDMEM, "--memory-max", "16M", "--swap-max", "32M", "long.py"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said and "footprint" in said
    assert "coldmem/" not in said


BIG = """
import sys, threading
import numpy as np
from concurrent.futures import ThreadPoolExecutor

def make(n):
    rng = np.random.default_rng(n)
    return rng.integers(0, 1000, 1 << 20)

with ThreadPoolExecutor(3) as pool:
    arrays = list(pool.map(make, range(8)))
print([int(a.sum()) for a in arrays])
print(all(np.array_equal(a, make(n)) for n, a in enumerate(arrays)))
"""


@pytest.fixture(params=["handler", "sigbus"])
def delivery(request: pytest.FixtureRequest) -> str:
    if request.param == "handler" and rights_here() != "full":
        pytest.skip("no right to serve faults of system calls here: see `coldmem doctor`")
    return str(request.param)


def test_a_program_four_times_the_limit(delivery: str, tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text(BIG)
    limits = ["--memory-max", "16M", "--swap-max", "96M", "--delivery", delivery]
    ours = run([*COLDMEM, *limits, "--json", "out.json", "big.py"], tmp_path)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == run([*PYTHON, "big.py"], tmp_path).stdout
    assert ours.stderr.startswith("coldmem:\n") and len(ours.stderr.splitlines()) < 24
    for word in ("arrays", "footprint", "ratio", "faults", "16.0 MiB", delivery):
        assert word in ours.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"name", "machine", "settings", "rows"} and found["name"] == "run"
    assert found["settings"] == {"program": "big.py", "module": False, "arguments": []}
    (row,) = found["rows"]
    assert row["delivery"] == delivery and row["memory_max_bytes"] == 16 << 20
    assert 0 < row["footprint_peak_bytes"] <= 16 << 20 and row["loads"] > 0
    assert row["arrays_taken"] >= 16 and row["array_bytes_peak"] >= 64 << 20
    assert row["seconds"] > 0 and row["allocations_refused"] == 0


def test_no_room_is_a_memory_error_with_a_sentence_more(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(
        "import numpy as np\na = [np.ones(1 << 20) for _ in range(99)]\n")
    limits = ["--memory-max", "16M", "--swap-max", "32M"]
    done = run([*QUIET, *limits, "greedy.py"], tmp_path)
    assert done.returncode == 1
    *_, error, ours = done.stderr.splitlines()
    assert "MemoryError" in error
    assert ours.startswith("coldmem: no room for an array of 8.0 MiB: arrays of 40.0 MiB were alive")
    assert "--memory-max 16.0 MiB with --swap-max 32.0 MiB surely hold 4" in ours
    assert "Raise --swap-max or --memory-max" in ours
    fits = run([*QUIET, *limits, "--overcommit", "greedy.py"], tmp_path)
    assert (fits.returncode, fits.stderr) == (0, "")


def test_children(tmp_path: Path) -> None:
    """Forked ones keep their arrays; spawned ones import the program again and have no Memory."""
    (tmp_path / "family.py").write_text("""
import multiprocessing, os, subprocess, sys
import numpy as np

def total(array):
    return int(array.sum())

def look(n):
    return int(big.sum()) if "big" in globals() else -1

if __name__ == "__main__":
    big = np.arange(8 << 20)
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, pool.apply(total, (big[: 1 << 18],)), pool.apply(look, (0,)))
    print(subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True).stdout)
    pid = os.fork()
    if pid == 0:
        sys.exit(0 if int(big.sum()) == sum(range(8 << 20)) else 3)
    print(os.waitpid(pid, 0)[1])
""")
    limits = ["--memory-max", "16M", "--swap-max", "128M"]
    ours = run([*COLDMEM, *limits, "family.py"], tmp_path)
    theirs = run([*PYTHON, "family.py"], tmp_path)
    assert ours.stdout == theirs.stdout, ours.stderr
    assert ours.returncode == 0
    assert ours.stderr.count("footprint") == 1, "only the program itself reports"


FUTURES = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import numpy as np

def work(n):
    return int(np.random.default_rng(n).integers(0, 1000, 1 << 20).sum())

def total(array):
    return int(array.sum())

if __name__ == "__main__":
    with ThreadPoolExecutor(4) as pool:
        print(list(pool.map(work, range(6))))
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            print(method, list(pool.map(work, range(4))))
            print(pool.submit(total, np.arange(1 << 20)).result())
"""


def test_futures_in_threads_and_processes(delivery: str, tmp_path: Path) -> None:
    (tmp_path / "futures.py").write_text(FUTURES)
    limits = ["--memory-max", "16M", "--swap-max", "128M", "--delivery", delivery]
    ours = run([*COLDMEM, *limits, "--report", "futures.py"], tmp_path)
    theirs = run([*PYTHON, "futures.py"], tmp_path)
    assert (ours.returncode, ours.stdout) == (0, theirs.stdout), ours.stderr
    assert ours.stderr.count("footprint") == 1


def test_a_module_with_arguments_and_a_report_in_a_file_only(tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text("import sys\nimport numpy as np\nprint(sys.argv[1:])\nsys.exit(5)")
    done = run([*QUIET, "--json", "o.json", "-m", "mod", "--report", "x"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (5, "['--report', 'x']\n", "")
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["settings"] == {"program": "mod", "module": True, "arguments": ["--report", "x"]}


def test_the_report_of_a_program_without_numpy(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text("import sys\nassert 'numpy' not in sys.modules\nprint(1)")
    done = run([*COLDMEM, "--json", "o.json", "small.py"], tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert len(done.stderr.splitlines()) == 1 and "did not use NumPy" in done.stderr
    assert json.loads((tmp_path / "o.json").read_text())["rows"][0]["arrays_taken"] == 0
    done = run([*COLDMEM, "--json", "no/o.json", "small.py"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "no such directory" in done.stderr


@pytest.mark.parametrize(("words", "said"), [
    ([], "no program"),
    (["-m"], "-m: give the name"),
    (["-c"], "-c: give the code"),
    (["nix.py"], "can't open file"),
    (["--unit", "5K", "small.py"], "choose 4K, 16K or 64K"),
    (["--memory-max", "lots", "small.py"], "'lots' is not a size"),
    (["--delivery", "post", "small.py"], "'post' is not one of"),
    (["--nix", "small.py"], "No such option"),
])
def test_a_wrong_call_is_one_clear_error(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text("print(1)")
    done = run([*COLDMEM, *words], tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "at"), [
    (["x.py", "--unit", "a"], 0),
    (["--unit", "4K", "x.py", "-m"], 2),
    (["--unit=4K", "--report", "x.py"], 2),
    (["--no-report", "-m", "x", "--report"], 1),
    (["--json", "f", "-mx"], 2),
    (["--cold-codec", "none", "-c", "code", "--unit"], 2),
    (["--codec", "lz4", "-ccode"], 2),
    (["--overcommit", "-", "a"], 1),
])
def test_where_the_program_begins(given: list[str], at: int) -> None:
    assert split_arguments(command, given) == [*given[:at], "--", *given[at:]]


def test_arguments_without_a_program() -> None:
    for given in (["--help"], ["--unit", "4K"], ["--", "x.py"], []):
        assert split_arguments(command, given) == given
