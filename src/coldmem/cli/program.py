"""Runs somebody's program in this process as the interpreter would have run it.

Guarantees: ``sys.argv``, ``sys.path[0]`` and ``__main__`` are as after ``python script.py``, ``python -m
module`` and ``python -c code``; SystemExit and exceptions pass through to the interpreter, so that exit
codes, ``sys.excepthook`` and the end by SIGINT are its own; a traceback has no frame of ours.
Owns: ``sys.modules["__main__"]`` while it runs, and after, since threads and exit handlers may use it.
"""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from coldmem.errors import UsageError

Advise = Callable[[BaseException], str | None]


@dataclass(frozen=True)
class Program:
    """What to run: a script, with `module` a module's name, or with `code` text, and its arguments."""

    target: str
    arguments: tuple[str, ...] = ()
    module: bool = False
    code: bool = False


def execute(run: Callable[[], None], advise: Advise = lambda error: None) -> None:
    """Run what `prepare` gave, in the main thread. Raises what it raises.

    Parameters
    ----------
    run : callable
    advise : callable
        A sentence more for an exception that ends the program, or None.
    """
    try:
        run()
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames(sys.excepthook, advise)
        raise


def prepare(program: Program) -> Callable[[], None]:
    """Set up the process for it; a function that runs it. `UsageError`: there is no such file."""
    main = ModuleType("__main__")
    names: dict[str, Any] = main.__dict__
    names["__builtins__"] = builtins
    target = program.target
    sys.argv = [target, *program.arguments]
    private: Any = runpy  # what `python -m` itself calls
    if program.module:
        sys.argv[0] = "-m"
        sys.modules["__main__"] = main
        _first_path(os.getcwd())
        return lambda: private._run_module_as_main(target, alter_argv=True)
    if program.code:
        sys.argv[0] = "-c"
        sys.modules["__main__"] = main
        names["__loader__"] = BuiltinImporter
        _first_path("")
        return lambda: exec(compile(target, "<string>", "exec", dont_inherit=True), names)
    if target != "-" and not os.path.exists(target):
        raise UsageError(f"can't open file {os.path.abspath(target)!r}: there is none")
    if target != "-" and (os.path.isdir(target) or _is_archive(target)):
        sys.modules["__main__"] = main
        _first_path(os.path.abspath(target), always=True)
        return lambda: private._run_module_as_main("__main__", alter_argv=False)
    try:
        read = _reader(target, names)
    except OSError as error:
        raise UsageError(f"can't open file {os.path.abspath(target)!r}: {error.strerror}") from None
    sys.modules["__main__"] = main
    _first_path("" if target == "-" else os.path.dirname(os.path.realpath(target)))
    return lambda: exec(read(), names)


def _reader(target: str, names: dict[str, Any]) -> Callable[[], CodeType]:
    """Sets what `__main__` says of its file; a function that compiles it."""
    if target == "-":
        return lambda: compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
    path = os.path.abspath(target)
    names |= {"__file__": path, "__cached__": None}
    if target.endswith(".pyc"):
        compiled = SourcelessFileLoader("__main__", path)
        names["__loader__"] = compiled
        code = compiled.get_code("__main__")
        assert code is not None  # it has read the file
        return lambda: code
    names["__loader__"] = SourceFileLoader("__main__", path)
    with io.open_code(path) as file:
        source = file.read()
    return lambda: compile(source, path, "exec", dont_inherit=True)


def _is_archive(path: str) -> bool:
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return True
    if not path.endswith((".zip", ".pyz")):
        return False
    import zipfile

    return zipfile.is_zipfile(path)


def _first_path(path: str, always: bool = False) -> None:
    """Ours was put in front by the interpreter, unless it runs with -P or -I."""
    if sys.flags.safe_path:
        if always:
            sys.path.insert(0, path)
    else:
        sys.path[0] = path


def _hide_our_frames(hook: Callable[..., Any], advise: Advise) -> None:
    """Wrap the exception hook for the one exception that is about to end the program."""

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        first: TracebackType | None = None
        here = traceback
        while here is not None:
            if here.tb_frame.f_code.co_filename == __file__:
                first = here
            here = here.tb_next
        if first is not None:
            traceback = first.tb_next
            error.__traceback__ = traceback
        hook(kind, error, traceback)
        said = advise(error)
        if said:
            print(f"coldmem: {said}", file=sys.stderr)

    sys.excepthook = show
