"""Build of the compiled modules.

The rule, and the only list there is: a module ``x.py`` with a twin ``x.pxd`` is compiled.

``COLDMEM_SANITIZE=thread`` (or ``address``) builds everything under that sanitizer.
``COLDMEM_INSTALL_ONLY=1`` installs without compiling: the Makefile compiles in a step of its own,
so that an edit rebuilds one module and not the installation.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

SRC = Path("src")
SANITIZE = os.environ.get("COLDMEM_SANITIZE", "")
# The two warnings are about C that Cython writes, not about what we wrote.
FLAGS = ["-O2", "-g1", "-std=gnu11", "-fno-strict-aliasing", "-Wno-unused-function",
         "-Wno-sign-compare"]
LINK: list[str] = []
if SANITIZE:
    FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    LINK += [f"-fsanitize={SANITIZE}"]


def compiled_modules() -> list[Path]:
    return sorted(p for p in SRC.rglob("*.py") if p.with_suffix(".pxd").exists())


def remove_orphans() -> None:
    """Delete in-place extensions whose twin is gone: they would shadow the module or outlive it."""
    for library in SRC.rglob("*.so"):
        stem = library.name.partition(".")[0]
        if not all(library.with_name(stem + end).exists() for end in (".py", ".pxd")):
            print(f"removing {library}: no {stem}.py with {stem}.pxd beside it")
            library.unlink()


def extension(path: Path) -> Extension:
    name = ".".join(path.relative_to(SRC).with_suffix("").parts)
    headers = sorted(str(p) for p in SRC.rglob("*.h"))
    return Extension(
        name, [str(path)], extra_compile_args=FLAGS, extra_link_args=LINK,
        include_dirs=sorted({str(Path(h).parent) for h in headers}), depends=[*headers, "setup.py"],
    )


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    made = cythonize(
        [extension(p) for p in compiled_modules()],
        include_path=[str(SRC)],
        build_dir=f"build/cython{'-' + SANITIZE if SANITIZE else ''}",
        nthreads=len(os.sched_getaffinity(0)),
        emit_linenums=bool(SANITIZE),  # a report then names the line of the .py
        compiler_directives={
            "language_level": "3", "boundscheck": False, "wraparound": False,
            "cdivision": True, "initializedcheck": False, "embedsignature": True,
            "legacy_implicit_noexcept": False, "binding": True,
        },
    )
    for module in made:
        # Cython puts a module's own flags first, and the last -O wins.
        if "-O3" in module.extra_compile_args:
            module.extra_compile_args.remove("-O2")
    return made


if __name__ == "__main__":  # cythonize starts processes, which may import this file
    if os.environ.get("COLDMEM_INSTALL_ONLY"):
        setup()
    else:
        remove_orphans()
        setup(ext_modules=extensions())
