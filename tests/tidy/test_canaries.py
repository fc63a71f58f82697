"""Each house rule catches a violation that is planted for it; so does none where there is none."""

import re

import pytest
from tidy import rules


@pytest.fixture
def tree(tmp_path):
    """`tree({path: text})`: a source tree with these files under src/coldmem."""

    def make(files: dict[str, str]):
        src = tmp_path / "src"
        for name, text in {"__init__.py": '"""Names."""\n', **files}.items():
            path = src / "coldmem" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return src

    return make


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("zsmalloc/pool.py", "from coldmem.zswap.store import x\n"),
        ("zsmalloc/pool.py", "from coldmem import zswap\n"),
        ("zsmalloc/pool.py", "import coldmem.lab\n"),
        ("zsmalloc/pool.py", "def f():\n    from ..zswap import store\n"),
        ("zsmalloc/pool.py", "from cython.cimports.coldmem.zswap.store import x\n"),
        ("zsmalloc/pool.py", "from cython.cimports.coldmem.zswap import store\n"),
        ("zsmalloc/pool.pxd", "from coldmem.zswap.store cimport (\n    a, b,\n)\n"),
        ("zsmalloc/pool.pxd", "cimport coldmem.zswap.store\n"),
        ("zsmalloc/pool.pxd", "from ..zswap cimport store\n"),
        ("zsmalloc/pool.pyi", "from coldmem.zswap.store import Store\n"),
        ("codecs/lz4.py", "from coldmem.linux import memory\n"),
        ("codecs/lz4.py", "from cython.cimports.coldmem.linux.lock import Mutex\n"),
        ("linux/atomic.pxd", "from coldmem.codecs.codec cimport Codec\n"),
        ("lab/locks.py", "from coldmem.monitor.live import show\n"),
        ("cli/main.py", "from coldmem.testing.faults import Plan\n"),
        ("cli/main.py", "from coldmem import testing\n"),
        ("zswap/store.py", "import coldmem\n"),
        ("attic/x.py", "pass\n"),
    ],
)
def test_import_direction(tree, path, text):
    src = tree({path: text, "zswap/store.py": "", "zswap/__init__.py": ""} | {path: text})
    found = list(rules.import_direction(src))
    assert found and all(path in violation for violation in found)


def test_import_direction_allows_what_points_down(tree):
    src = tree({
        "__init__.py": "from coldmem.zswap.store import x\n",
        "zswap/store.py": "import os\nfrom coldmem.errors import E\nfrom . import lru\n",
        "zswap/store.pxd": "# from coldmem.lab cimport x\nfrom libc.stdint cimport uint64_t\n"
                           "from coldmem.zsmalloc.pool cimport PoolC\n",
        "codecs/auto.py": "from cython.cimports.coldmem.linux.atomic import a64_load_rlx\n",
        "cli/main.py": "import coldmem\nfrom coldmem.lab import locks\n",
        "testing/faults.py": "from coldmem.cli import main\n",
    })
    assert not list(rules.import_direction(src))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("zswap/swapfile.py", "import mmap\n"),
        ("zswap/swapfile.py", "import ctypes.util\n"),
        ("zswap/swapfile.py", "from cython.cimports.posix.mman import mmap\n"),
        ("zswap/swapfile.pxd", "from posix.mman cimport mmap\n"),
        ("zswap/swapfile.pxd", 'cdef extern from "<sys/syscall.h>":\n    int SYS_futex\n'),
        ("zswap/swapfile.pxd", "cdef extern from '<linux/futex.h>' nogil:\n    int F\n"),
        ("zswap/swapfile.pxd", 'cdef extern from "_atomic.h" nogil:\n    int F\n'),
    ],
)
def test_kernel_seams(tree, path, text):
    assert len(list(rules.kernel_seams(tree({path: text}), {}))) == 1
    assert not list(rules.kernel_seams(tree({path: "import os\n", f"linux/{path}": text}), {}))


def test_kernel_seam_with_a_reason(tree):
    src = tree({"zswap/a.py": "import mmap\nimport fcntl\n"})
    (left,) = rules.kernel_seams(src, {"zswap/a.py: mmap": "a reason"})
    assert "fcntl" in left


def test_too_long(tree):
    src = tree({"a.py": "x = 1\n" * 521, "b.pxd": "\n" * 521, "c.py": "x = 1\n" * 520})
    assert len(list(rules.too_long(src.parent, ["src"], {}))) == 2
    assert len(list(rules.too_long(src.parent, ["src"], {"src/coldmem/a.py": "why"}))) == 1


def test_foreign_languages(tree):
    src = tree({"a.pyx": "", "b.c": "", "c.h": "", "d.py": ""})
    assert len(list(rules.foreign_languages(src.parent, ["src"]))) == 2


def test_missing_module_docstrings(tree):
    src = tree({"a.py": "# only a comment\nx = 1\n", "b.py": '"""A contract."""\n', "c.py": ""})
    assert len(list(rules.missing_module_docstrings(src))) == 2


PXD = (
    "cdef class Pool:\n    cdef int n\n    cdef int call(self, int n) except -1\n"
    "cdef int zs_free(Pool p, int n) noexcept nogil\n"
)
PY = (
    "@cython.cclass\nclass Pool:\n    def free(self, handle): ...\n    def _own(self): ...\n"
    "    def call(self, n): ...\n@cython.cfunc\ndef inner(x): ...\n"
    "def zs_free(p, n): ...\ndef helper(a, *, b): ...\n"
)


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        (None, "no pool.pyi"),
        ("class Pool:\n    def free(self, handle): ...\n", "lacks helper"),
        ("class Pool: ...\ndef helper(a, *, b): ...\n", "Pool.free: not in the .pyi"),
        ("class Pool:\n    def free(self, h): ...\ndef helper(a, *, b): ...\n", "says otherwise"),
        ("class Pool:\n    def free(self, handle): ...\ndef helper(a): ...\n", "says otherwise"),
        ("class Pool:\n    def free(self, handle): ...\ndef helper(a, *, b): ...\n"
         "def zs_free(p, n): ...\n", "invents zs_free"),
    ],
)
def test_stub_differences(tree, stub, expected):
    files = {"zsmalloc/pool.py": PY, "zsmalloc/pool.pxd": PXD,
             "zswap/a.py": "from coldmem.zsmalloc.pool import helper\n"}
    (found,) = rules.stub_differences(tree(files | ({"zsmalloc/pool.pyi": stub} if stub else {})))
    assert re.search(expected, found)


def test_stub_that_fits(tree):
    stub = "class Pool:\n    def free(self, handle): ...\ndef helper(a, *, b): ...\n"
    src = tree({"a/p.py": PY, "a/p.pxd": PXD, "a/p.pyi": stub,
                "a/c.py": "def zs_free(p): ...\n", "a/c.pxd": "cdef int zs_free(void *p)\n"})
    assert not list(rules.stub_differences(src))


VIEW = "# no\ncdef class View:\n    cdef object pool\n    cdef int n\n"


@pytest.mark.parametrize(
    ("pxd", "py", "wrong"),
    [
        (VIEW, "class View:\n    def __dealloc__(self):\n        end(self.c)\n", True),
        (VIEW.replace("object", "readonly Pool") + "cdef class Pool:\n    cdef int c\n",
         "class View:\n    def __dealloc__(self):\n        end(self.c)\n", True),
        (VIEW, "@cython.no_gc_clear\n@cython.cclass\nclass View:\n"
               "    def __dealloc__(self):\n        end(self.c)\n", False),
        (VIEW, "class View:\n    def __dealloc__(self):\n        free(self.c)\n", False),
        (VIEW, "class View:\n    def close(self):\n        end(self.c)\n", False),
        (VIEW.replace("object pool", "int pool"),
         "class View:\n    def __dealloc__(self):\n        end(self.c)\n", False),
    ],
)
def test_cleared_too_early(tree, pxd, py, wrong):
    found = list(rules.cleared_too_early(tree({"zsmalloc/v.py": py, "zsmalloc/v.pxd": pxd})))
    assert bool(found) == wrong


DOCUMENTED = '''
"""M."""
class Zswap:
    """A cache.

    Parameters
    ----------
    max_pool : int
        Limit.
    codec, level : str
        How.

    Raises
    ------
    ValueError
        If.
    """

    def __init__(self, max_pool, codec, *, level=1): ...
    def load(self, slot, out):
        """Fill `out`."""
    def free(self, level):
        """As `Pool.free`."""
def parse(text):
    """Parse.

    Parameters
    ----------
    text : str
        What.
    """
'''
INIT = '"""N."""\nfrom coldmem.zswap.z import Zswap, parse\n__all__ = ["Zswap", "parse"]\n'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    max_pool : int\n        Limit.\n", "", "max_pool"),
        ("codec, level : str", "codec : str", "level"),
        ('"""Fill `out`."""', '"""Fill."""', "out is not described"),
        ('"""Fill `out`."""', "pass", "Zswap.load has no docstring"),
        ('"""As `Pool.free`."""', '"""As Pool."""', "level is not described"),
        ("    text : str\n        What.\n", "    other : str\n        What.\n", "text"),
        ('"""Parse.\n', 'x = """Parse.\n', "parse has no docstring"),
    ],
)
def test_poor_docstrings(tree, old, new, expected):
    assert old in DOCUMENTED
    src = tree({"zswap/__init__.py": INIT, "zswap/z.py": DOCUMENTED.replace(old, new)})
    (found,) = rules.poor_docstrings(src / "coldmem" / "zswap")
    assert expected in found


def test_good_docstrings(tree):
    src = tree({"zswap/__init__.py": INIT, "zswap/z.py": DOCUMENTED})
    assert not list(rules.poor_docstrings(src / "coldmem" / "zswap"))
    names = dict(rules.exported(src / "coldmem" / "zswap"))
    assert sorted(names) == ["Zswap", "parse"]
