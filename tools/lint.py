"""ruff and mypy over the tree; the exit code is 1 when one complains.

Compiled modules (``x.py`` with ``x.pxd``) get their names and types from the ``.pxd``, which neither
can read. Cython checks those names; here ruff leaves undefined names to it, and mypy reads the
``.pyi``, or nothing where the module has no Python API.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# F821 undefined name, F842 a C type that only a comprehension uses, B007 unused loop variable (its
# C type has its name), E741 the name l, and rewrites that do not mean the same in C.
NOT_FOR_COMPILED = "F821,F842,B007,E741,SIM,UP,RUF005"


def ruff(files: list[Path], *options: str) -> list[str]:
    check = [sys.executable, "-m", "ruff", "check", "-q", "--output-format=concise"]
    return [*check, *options, *map(str, files)]


def commands() -> list[list[str]]:
    sources = sorted((ROOT / "src").rglob("*.py"))
    compiled = [p for p in sources if p.with_suffix(".pxd").exists()]
    plain = [p for p in sources if p not in compiled]
    stubs = sorted((ROOT / "src").rglob("*.pyi"))
    others = [ROOT / "setup.py", ROOT / "tools", ROOT / "tests", ROOT / "docs"]
    return [
        ruff([*plain, *stubs, *(p for p in others if p.exists())]),
        ruff(compiled, f"--extend-ignore={NOT_FOR_COMPILED}"),
        [sys.executable, "-m", "mypy", *map(str, plain + stubs)],
    ]


def main() -> int:
    failed = 0
    for command in commands():
        print("==", *command[2:4], flush=True)
        failed |= subprocess.run(command, cwd=ROOT).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
