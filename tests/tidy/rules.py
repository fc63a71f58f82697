"""The house rules as functions of a source tree: each returns the violations it finds, as sentences.

They take the tree as an argument, so that the canaries can plant a violation in a tree of their own.
"""

import ast
import re
from collections.abc import Container, Iterator
from pathlib import Path

# Each may import what stands in a line above it. Two in one line are siblings: neither imports the
# other. `testing` may import everything and is imported by nothing.
TIERS = [
    ["errors"],
    ["units"],
    ["linux", "codecs"],
    ["zsmalloc"],
    ["zswap"],
    ["memory", "cache", "nbd"],
    ["dask"],
    ["monitor", "lab"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
TIER = {name: height for height, names in enumerate(TIERS) for name in names}

# What only linux/ may use. Loading libraries (dlfcn), threads of the standard library and plain file
# calls of `os` are not kernel seams in this sense.
SEAM_CIMPORTS = {
    "posix.mman", "posix.fcntl", "posix.ioctl", "posix.uio",
    "posix.unistd.pread", "posix.unistd.pwrite", "posix.unistd.ftruncate", "posix.unistd.fork",
}
SEAM_IMPORTS = {"mmap", "fcntl", "ctypes", "resource", "select", "_posixsubprocess"}
SEAM_HEADER = re.compile(
    r"""extern\s+from\s+["']<?(linux/|sys/|sched\.h|pthread\.h|fcntl\.h|unistd\.h|_)"""
)

# Modules that a sibling may import all the same, and why: atomics are a part of the C language, not a
# service of the kernel; they live in linux/ only because that is where the one header is.
COMMON = {"coldmem.linux.atomic"}

# Parameters that are words of docs/glossary.md.
GLOSSARY = {"handle", "slot", "group"}

LINES_MAX = 520  # "about 500"
_CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?c?import\s+(\([^)]*\)|[\w., \t]+)", re.MULTILINE)


def sources(src: Path, *suffixes: str) -> list[Path]:
    return sorted(p for p in src.rglob("*") if p.suffix in suffixes)


def twins(src: Path) -> list[Path]:
    """The modules that are compiled: every .py with a .pxd beside it."""
    return [p for p in sources(src, ".py") if p.with_suffix(".pxd").exists()]


def module_name(src: Path, path: Path) -> str:
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# -- imports --------------------------------------------------------------------------------------
def imports(src: Path, path: Path) -> Iterator[str]:
    """Dotted names that `path` imports or cimports; relative ones made absolute."""
    package = list(path.relative_to(src).parent.parts)

    def absolute(module: str) -> str:
        level = len(module) - len(module.lstrip("."))
        if level == 0:
            return module
        base = package[: len(package) - level + 1]
        return ".".join([*base, *filter(None, [module.lstrip(".")])])

    if path.suffix == ".pxd":
        text = re.sub(r"#.*", "", path.read_text())
        for module, names in _CIMPORT.findall(text):
            listed = re.findall(r"[\w.]+", re.sub(r"\bas\s+\w+", "", names))
            if module:
                yield from (f"{absolute(module)}.{name}" for name in listed or [""])
            else:
                yield from listed
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("cython.cimports.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute("." * node.level + (node.module or ""))
            module = module.removeprefix("cython.cimports").lstrip(".")
            yield from (f"{module}.{alias.name}".lstrip(".") for alias in node.names)


def layer(src: Path, dotted: str) -> str | None:
    """The layer that a dotted name belongs to; None when it is not ours."""
    parts = dotted.split(".")
    if parts[0] != "coldmem":
        return None
    if len(parts) > 1:
        top = src / "coldmem" / parts[1]
        if parts[1] in TIER or parts[1] == "testing" or top.is_dir() or any(
            top.with_suffix(s).exists() for s in (".py", ".pxd")
        ):
            return parts[1]
    return "__init__"


def import_direction(src: Path) -> Iterator[str]:
    for path in sources(src, ".py", ".pxd", ".pyi"):
        parts = path.relative_to(src).with_suffix("").parts
        own = parts[1]
        if own == "testing":
            continue
        if own not in TIER:
            yield f"{path.relative_to(src)}: layer {own!r} is not in TIERS"
            continue
        for dotted in imports(src, path):
            other = layer(src, dotted)
            if other is None or other == own:
                continue
            if TIER.get(other) == TIER[own] and dotted.rpartition(".")[0] in COMMON:
                continue
            if other == "testing":
                yield f"{path.relative_to(src)} imports {dotted}: nothing may import testing"
            elif other not in TIER:
                yield f"{path.relative_to(src)} imports {dotted}: layer not in TIERS"
            elif TIER[other] >= TIER[own]:
                yield f"{path.relative_to(src)} imports {dotted}: {own} may not import {other}"


def kernel_seams(src: Path, allowed: dict[str, str]) -> Iterator[str]:
    """Uses of the kernel outside linux/. `allowed`: "path: name" -> reason."""
    for path in sources(src, ".py", ".pxd"):
        where = path.relative_to(src / "coldmem").as_posix()
        if where.startswith(("linux/", "testing/")):  # guard pages and the like are for tests
            continue
        found = set()
        for dotted in imports(src, path):
            found |= {s for s in SEAM_CIMPORTS if dotted == s or dotted.startswith(s + ".")}
            found |= {dotted.split(".")[0]} & SEAM_IMPORTS
        if path.suffix == ".pxd":
            found |= {f"<{m}>" for m in SEAM_HEADER.findall(path.read_text())}
        for name in sorted(found):
            if f"{where}: {name}" not in allowed:
                yield f"{where}: {name}: only linux/ talks to the kernel"


# -- files ----------------------------------------------------------------------------------------
def too_long(root: Path, folders: list[str], longer: dict[str, str]) -> Iterator[str]:
    """Files past LINES_MAX. `longer`: path -> reason."""
    for folder in folders:
        for path in sources(root / folder, ".py", ".pxd", ".pyi", ".h"):
            where = path.relative_to(root).as_posix()
            lines = len(path.read_text().splitlines())
            if lines > LINES_MAX and where not in longer:
                yield f"{where}: {lines} lines, more than {LINES_MAX}: split it, or give a reason"


def foreign_languages(root: Path, folders: list[str]) -> Iterator[str]:
    for folder in folders:
        for path in sources(root / folder, ".pyx", ".pxi", ".c", ".cc", ".cpp", ".rs"):
            yield f"{path.relative_to(root)}: one language; write a .py with a .pxd"


def missing_module_docstrings(src: Path) -> Iterator[str]:
    for path in sources(src, ".py"):
        if not ast.get_docstring(ast.parse(path.read_text())):
            yield f"{path.relative_to(src)}: no module docstring"


# -- the Python side of compiled modules ----------------------------------------------------------
_CDEF = re.compile(
    r"^( *)cdef\s+(?:inline\s+)?(?!class|struct|enum|extern)[^(=\n]*?\b(\w+)\s*\(", re.M)


def c_only(path: Path, indented: bool = False) -> set[str]:
    """Functions, or methods, that the .pxd declares as `cdef`: Python cannot see them."""
    pxd = path.with_suffix(".pxd")
    found = _CDEF.findall(pxd.read_text()) if pxd.exists() else []
    return {name for indent, name in found if bool(indent) == indented}


def public_definitions(path: Path) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Top-level functions and classes that Python code can use."""
    hidden = c_only(path)
    return {
        node.name: node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_") and node.name not in hidden
        and "cython.cfunc" not in map(ast.unparse, node.decorator_list)
    }


def methods(
    node: ast.FunctionDef | ast.ClassDef, hidden: Container[str] = ()
) -> dict[str, ast.FunctionDef]:
    """Public methods and properties of a class."""
    return {
        item.name: item for item in node.body
        if isinstance(item, ast.FunctionDef)
        and not item.name.startswith("_") and item.name not in hidden
    }


def arguments(node: ast.FunctionDef) -> list[str]:
    a = node.args
    names = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs,
             *([a.kwarg] if a.kwarg else [])]
    return [arg.arg for arg in names if arg.arg not in ("self", "cls")]


def stub_differences(src: Path) -> Iterator[str]:
    """Compiled modules whose .pyi is missing, or does not say what the .py has.

    Helpers that no other module imports may be left out of it.
    """
    imported = {dotted for path in sources(src, ".py", ".pyi") for dotted in imports(src, path)}
    for path in twins(src):
        where = path.relative_to(src)
        ours = public_definitions(path)
        stub = path.with_suffix(".pyi")
        if not ours:
            continue
        if not stub.exists():
            yield f"{where}: no {stub.name} for {', '.join(sorted(ours))}"
            continue
        theirs = {
            n.name: n for n in ast.parse(stub.read_text()).body
            if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
        }
        # A typed dictionary or a record in the .pyi may be a plain assignment, or nothing, in the .py.
        records = {n for n, node in theirs.items() if isinstance(node, ast.ClassDef)
                   and any(ast.unparse(b) in ("TypedDict", "NamedTuple") for b in node.bases)}
        for name in sorted(theirs.keys() - ours.keys() - records):
            yield f"{where}: the .pyi invents {name}"
        for name in sorted(ours.keys() - theirs.keys()):
            if f"{module_name(src, path)}.{name}" in imported:
                yield f"{where}: the .pyi lacks {name}"
        for name in sorted(ours.keys() & theirs.keys()):
            yield from _differences(
                f"{where}: {name}", ours[name], theirs[name], c_only(path, indented=True))


def _differences(
    where: str, ours: ast.FunctionDef | ast.ClassDef, theirs: ast.FunctionDef | ast.ClassDef,
    hidden: set[str],
) -> Iterator[str]:
    if isinstance(ours, ast.FunctionDef) and isinstance(theirs, ast.FunctionDef):
        if arguments(ours) != arguments(theirs):
            yield f"{where}({', '.join(arguments(ours))}): the .pyi says otherwise"
        return
    mine, stubbed = methods(ours, hidden), methods(theirs)
    for name in sorted(mine.keys() - stubbed.keys()):
        yield f"{where}.{name}: not in the .pyi"
    # A stub may add names that are C attributes (`cdef readonly`) or inherited, as properties.
    for name in sorted(mine.keys() & stubbed.keys()):
        if arguments(mine[name]) != arguments(stubbed[name]):
            yield f"{where}.{name}({', '.join(arguments(mine[name]))}): the .pyi says otherwise"


# -- the garbage collector ------------------------------------------------------------------------
_FIELD = re.compile(r"^    cdef (?:readonly |public )?(\w+) \w", re.M)
_CLASS = re.compile(r"^cdef class (\w+)[^:]*:\n((?:(?:    .*|\s*)\n)*)", re.M)
_OBJECTS = {"object", "str", "bytes", "list", "dict", "tuple", "set"}


def cleared_too_early(src: Path, safe: Container[str] = ()) -> Iterator[str]:
    """Compiled classes whose ``__dealloc__`` may run after the collector dropped what it uses.

    When a cycle is collected, the objects that a class refers to are dropped before its
    ``__dealloc__`` runs, and C memory that they own goes with them; `cython.no_gc_clear` prevents
    that. A ``__dealloc__`` that only calls ``free`` on its own fields needs nothing else.
    """
    bodies = {p: dict(_CLASS.findall(p.read_text())) for p in sources(src, ".pxd")}
    objects = _OBJECTS.union(*(found.keys() for found in bodies.values()))
    for path in twins(src):
        fields = bodies[path.with_suffix(".pxd")]
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or node.name not in fields:
                continue
            ends = [n for n in node.body
                    if isinstance(n, ast.FunctionDef) and n.name == "__dealloc__"]
            if not ends or not objects & set(_FIELD.findall(fields[node.name])):
                continue
            if all(re.fullmatch(r"free\(self[.\w]+\)", ast.unparse(line)) for line in ends[0].body):
                continue
            if f"{path.relative_to(src / 'coldmem')}: {node.name}" in safe:
                continue
            if not any(ast.unparse(d) == "cython.no_gc_clear" for d in node.decorator_list):
                yield f"{path.relative_to(src)}: {node.name} has __dealloc__ without no_gc_clear"


# -- docstrings of the public API -----------------------------------------------------------------
def exported(package: Path) -> Iterator[tuple[str, Path]]:
    """(name, module file) for each name in `__all__` of a package's ``__init__.py``."""
    tree = ast.parse((package / "__init__.py").read_text())
    listed: list[str] = []
    found: dict[str, Path] = {}
    top = next(p for p in [package, *package.parents] if p.name == "coldmem").parent
    body = list(tree.body)
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            body += node.body  # a package that imports its parts when they are used
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = ast.literal_eval(node.value)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("coldmem"):
            file = top.joinpath(*node.module.split("."))
            for alias in node.names:
                found[alias.asname or alias.name] = file
    for name in listed:
        if name in found:
            file = found[name]
            if file.is_dir():  # re-exported from a package: follow it
                inner = dict(exported(file))
                if name in inner:
                    yield name, inner[name]
            elif file.with_suffix(".py").exists():
                yield name, file.with_suffix(".py")


def poor_docstrings(package: Path) -> Iterator[str]:
    """Public names without a docstring, or with parameters that it does not describe.

    A function or class lists every parameter under ``Parameters``. A method does so, or names each
    in backticks in its sentence, or refers to the method that it passes them to (`Pool.free`). Words
    of the glossary need no description.
    """
    for name, path in exported(package):
        node = public_definitions(path).get(name)
        if node is None:
            continue
        doc = ast.get_docstring(node)
        if not doc:
            yield f"{path.name}: {name} has no docstring"
            continue
        if path.name == "errors.py":
            taken = []  # exceptions are made by us, not by callers
        elif isinstance(node, ast.FunctionDef):
            taken = arguments(node)
        else:
            makers = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
            maker = makers.get("__init__", makers.get("__cinit__"))
            taken = arguments(maker) if maker else []
        listed = _listed(doc)
        for argument in taken:
            if argument not in listed:
                yield f"{path.name}: {name}: parameter {argument} is not under Parameters"
        if isinstance(node, ast.ClassDef):
            for method in methods(node, c_only(path, indented=True)).values():
                text = ast.get_docstring(method)
                if not text:
                    if not any("setter" in ast.unparse(d) for d in method.decorator_list):
                        yield f"{path.name}: {name}.{method.name} has no docstring"
                    continue
                if re.search(r"`\w+\.\w+`", text):
                    continue
                for argument in arguments(method):
                    if argument not in GLOSSARY | _listed(text) and not re.search(
                        rf"`[^`\n]*\b{argument}\b[^`\n]*`", text
                    ):
                        yield f"{path.name}: {name}.{method.name}: {argument} is not described"


def _listed(doc: str) -> set[str]:
    """Names under ``Parameters`` of a numpydoc docstring."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.M | re.S)
    if not section:
        return set()
    names: set[str] = set()
    for line in re.findall(r"^(\S[^:\n]*?)\s*(?::.*)?$", section[1], re.M):
        names.update(part.strip().lstrip("*") for part in line.split(","))
    return names
