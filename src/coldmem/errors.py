"""Every exception of coldmem, with the exit code that the command line gives it.

Three kinds: misuse by the caller (`UsageError` and its children), failure of the environment
(`EnvironmentFailure` and its children), and a bug of our own (`InternalError`). Each message says
what to do. Classes also derive from the built-in that a reader would expect, so that
``except KeyError`` or ``except MemoryError`` work.
"""

from __future__ import annotations


class ColdmemError(Exception):
    """Base of all; `exit_code` is what the command line returns for it.

    Attributes
    ----------
    slots : tuple of int
        The slots that it is about, where it is about slots.
    others : tuple of ColdmemError
        What else went wrong in the same call, when a batch failed in several ways.
    """

    exit_code = 1
    slots: tuple[int, ...] = ()
    others: tuple[ColdmemError, ...] = ()

    def __str__(self) -> str:
        # KeyError would print the repr of its argument; a sentence should read as a sentence.
        return str(self.args[0]) if self.args else self.__class__.__name__


# -- the caller's misuse ---------------------------------------------------------------------------
class UsageError(ColdmemError, ValueError):
    """An argument is not what it must be."""

    exit_code = 2


class InvalidSizeError(UsageError):
    """A size of 0, a size above the unit, or a buffer of the wrong length."""


class InvalidQuantityError(UsageError):
    """Text such as "64K" or "25%" that cannot be read as a quantity."""


class UnhashableKeyError(UsageError, TypeError):
    """A key, or an argument that is to be a part of one, cannot be hashed."""


class UnknownCodecError(UsageError):
    """No codec has this name."""


class TrainingError(UsageError):
    """No dictionary can be trained on these samples."""


class HandleError(UsageError):
    """A handle that cannot be used; see the children for why."""


class ForeignHandleError(HandleError):
    """The handle was not given out by this pool."""


class StaleHandleError(HandleError):
    """The object of this handle was freed, and the handle may have been reused since."""


class DoubleFreeError(StaleHandleError):
    """`free` was called twice with one handle."""


class HandleBusyError(HandleError):
    """`free` was called while the object is being read; end the read first."""


class ClosedError(UsageError):
    """The pool, cache or file was closed."""


class SlotNotFoundError(ColdmemError, KeyError):
    """Nothing is stored under this slot. `slots` lists every missing slot of the call."""

    exit_code = 2

    def __init__(self, message: str, slots: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.slots = slots


# -- the environment's failure ---------------------------------------------------------------------
class EnvironmentFailure(ColdmemError):
    """The machine refused something that was asked for properly."""

    exit_code = 3


class MissingLibraryError(EnvironmentFailure, ImportError):
    """A shared library is not installed; the message names the package that has it."""


class MemoryLimitError(EnvironmentFailure, MemoryError):
    """There is no room left: not in the pool, nor in the swap file."""


class CodecError(EnvironmentFailure):
    """A codec failed on data that it should have been able to handle."""


class SwapFileError(EnvironmentFailure, OSError):
    """The swap file cannot be made, grown, read or written. `slots` lists the slots concerned."""

    def __init__(self, message: str, slots: tuple[int, ...] = (), errno: int | None = None) -> None:
        super().__init__(message)
        self.slots = slots
        self.errno = errno


class CorruptDataError(SwapFileError):
    """Data read back is not what was written; it was not handed out."""


# -- our own bug -----------------------------------------------------------------------------------
class InternalError(ColdmemError):
    """An invariant of coldmem does not hold. Please report it."""

    exit_code = 70


class CorruptPoolError(InternalError):
    """`check_valid` found a structure that contradicts itself."""
