"""The house rules hold for this tree."""

import importlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from tidy import rules

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
FOLDERS = ["src", "tests", "tools", "docs"]

# path -> why it may be longer than rules.LINES_MAX
LONGER: dict[str, str] = {}
# "path: name" -> why a module outside linux/ may use it
SEAMS: dict[str, str] = {
    "codecs/simd.pxd: <_>": "vector instructions; nothing of the kernel",
    "zswap/swapio.py: posix.unistd.pread": "the one place that reads the swap file, with its faults",
    "zswap/swapio.py: posix.unistd.pwrite": "the one place that writes it",
}
# "path: class" -> why its __dealloc__ may run after the collector has dropped its objects
SAFE_DEALLOC = {
    "zswap/swapfile.py: SwapFile": "closes its own descriptor; uses no object",
    "memory/manager.py: Manager": "looks at its own C fields only; __del__ has stopped its threads",
    "zswap/base.py: ZswapBase": "__del__ has closed it, which runs before anything is dropped",
}


def none(violations):
    found = list(violations)
    assert not found, "\n" + "\n".join(found)


def test_imports_run_one_way():
    none(rules.import_direction(SRC))


def test_only_linux_talks_to_the_kernel():
    none(rules.kernel_seams(SRC, SEAMS))


@pytest.mark.parametrize("path", rules.twins(SRC), ids=lambda p: rules.module_name(SRC, p))
def test_a_module_with_a_pxd_is_compiled(path):
    module = importlib.import_module(rules.module_name(SRC, path))
    assert module.__file__ is not None
    assert module.__file__.endswith(tuple(EXTENSION_SUFFIXES)), module.__file__


def test_there_are_compiled_modules():
    assert len(rules.twins(SRC)) > 2


def test_stubs_say_what_the_modules_have():
    none(rules.stub_differences(SRC))


def test_the_collector_leaves_what_dealloc_uses():
    none(rules.cleared_too_early(SRC, SAFE_DEALLOC))


def test_no_file_is_too_long():
    none(rules.too_long(ROOT, FOLDERS, LONGER))


def test_exceptions_to_the_rules_are_needed_and_reasoned():
    """An entry that nothing needs any more is removed; one without a reason is no entry."""
    assert all(reason.strip() for reason in [*LONGER.values(), *SEAMS.values(), *SAFE_DEALLOC.values()])
    lengths = list(rules.too_long(ROOT, FOLDERS, {}))
    assert all(any(line.startswith(f"{path}:") for line in lengths) for path in LONGER)
    seams = list(rules.kernel_seams(SRC, {}))
    assert all(any(line.startswith(f"{use}:") for line in seams) for use in SEAMS)
    early = list(rules.cleared_too_early(SRC))
    assert all(any(f"{name} has" in line for line in early) for name in SAFE_DEALLOC)


def test_one_language():
    none(rules.foreign_languages(ROOT, FOLDERS))


def test_each_module_opens_with_a_docstring():
    none(rules.missing_module_docstrings(SRC))


@pytest.mark.parametrize(
    "package", sorted({p.parent for p in SRC.rglob("__init__.py")}), ids=lambda p: p.name
)
def test_public_names_are_documented(package):
    none(rules.poor_docstrings(package))
