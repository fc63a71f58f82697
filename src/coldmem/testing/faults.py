"""Fault plans: what goes wrong with a swap file's transfers, as data.

Owns: nothing. A plan is an immutable list of faults and a seed. `FaultPlan.install` hands it to a
swap file as plain rows; production code never imports this module. Safe from any thread.
Guarantees: whether a fault strikes transfer number i follows from the plan and i alone, so a
failing run is repeated from its printed plan. Reads, writes and punches are numbered
apart, each from 1, from the moment of installation. (With several threads, which one gets which
number is a race.)

=============  ==========  ========================================  ============================
kind           operation   what the swap file does                   what must come of it
=============  ==========  ========================================  ============================
``error``      all         moves nothing, returns -errno             write: data stays in RAM;
                                                                     read: error for that slot;
                                                                     punch: never tried again
``short``      both        the first system call moves only some     survived
                           bytes
``interrupt``  both        EINTR some times before it moves bytes    survived
``delay``      all         sleeps first                              survived, nobody else waits
``lost``       write       says it is done, writes nothing           the checksum finds it
``torn``       write       says it is done, writes the first bytes   the checksum finds it
``torn``       read        part of one 512-byte sector is wrong      the checksum finds it
``flip``       read        one bit is wrong                          the checksum finds it
``elsewhere``  read        data of another offset                    the checksum finds it
=============  ==========  ========================================  ============================
"""

from __future__ import annotations

import errno as errno_names
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from coldmem.errors import UsageError

Operation = Literal["read", "write", "punch"]
Kind = Literal["error", "short", "interrupt", "delay", "lost", "torn", "flip", "elsewhere"]
Row = tuple[int, int, int, int, int, int]

# The numbers are those of `FaultKind` in swapio.pxd.
_KINDS: dict[str, int] = {
    "error": 1, "short": 2, "interrupt": 3, "delay": 4,
    "lost": 5, "torn": 6, "flip": 7, "elsewhere": 8,
}
# The numbers are those of `FaultOperation`, and what each operation can be struck by.
_OPERATIONS: dict[str, int] = {"read": 0, "write": 1, "punch": 2}
_ONLY: dict[str, str] = {"lost": "write", "flip": "read", "elsewhere": "read"}
_FOREVER = (1 << 64) - 1


class Hits(Protocol):
    """What `install_faults` returns."""

    def hits(self) -> list[int]: ...


class TakesFaults(Protocol):
    """A swap file, or what passes faults on to one."""

    def install_faults(self, rows: Sequence[Row], seed: int = 0) -> Hits | None: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Parameters
    ----------
    operation : {"read", "write", "punch"}
        Which transfers it strikes; ``punch`` is giving disk space back.
    kind : str
        See the table at the head of this module.
    at : int or (int, int), optional
        The number of the transfer, or the first and the last; by default every transfer.
    probability : float
        Chance of each of them.
    argument : int, optional
        ``error``: the errno (EIO); ``short``: bytes of the first system call; ``interrupt``: how
        often (1); ``delay``: milliseconds; ``torn``: bytes that are right before it goes wrong;
        ``flip``: the bit; ``elsewhere``: bytes further on. Where it is left out for ``short``,
        ``torn`` and ``flip``, the seed chooses.
    """

    operation: Operation
    kind: Kind
    at: int | tuple[int, int] | None = None
    probability: float = 1.0
    argument: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or self.operation not in _OPERATIONS:
            raise UsageError(f"no fault {self.kind!r} of {self.operation!r}")
        possible = self.kind in ("error", "delay") or self.operation != "punch"
        if not possible or _ONLY.get(self.kind, self.operation) != self.operation:
            raise UsageError(f"a {self.operation} cannot be struck by {self.kind!r}")
        if not 0 <= self.probability <= 1:
            raise UsageError(f"probability {self.probability} is not between 0 and 1")
        first, last = self._range()
        if not 1 <= first <= last:
            raise UsageError(f"at={self.at}: transfers are counted from 1, first before last")
        if self.kind in ("delay", "elsewhere") and self.argument is None:
            raise UsageError(f"{self.kind!r} needs an argument")
        if self.argument is not None and self.argument < 0 and self.kind != "elsewhere":
            raise UsageError(f"argument {self.argument} of {self.kind!r} is negative")
        if self.argument == 0 and self.kind in ("error", "short", "interrupt", "elsewhere"):
            raise UsageError(f"argument 0 of {self.kind!r} means no fault")

    def _range(self) -> tuple[int, int]:
        if self.at is None:
            return 1, _FOREVER
        return (self.at, self.at) if isinstance(self.at, int) else self.at

    def row(self) -> Row:
        """The fault as `install_faults` takes it."""
        default = {"error": errno_names.EIO, "interrupt": 1}.get(self.kind, -1)
        argument = default if self.argument is None else self.argument
        chance = round(self.probability * (1 << 32))
        return (_OPERATIONS[self.operation], _KINDS[self.kind], *self._range(), chance, argument)


@dataclass(frozen=True)
class FaultPlan:
    """Faults, and the seed of their chances and choices.

    Parameters
    ----------
    faults : sequence of Fault
        Several may strike one transfer.
    seed : int
        The same seed, the same faults.

    Examples
    --------
    >>> import errno
    >>> from coldmem.zswap.swapfile import SwapFile
    >>> plan = FaultPlan([Fault("write", "error", at=2, argument=errno.ENOSPC)])
    >>> with SwapFile("1M") as file, plan.installed(file) as struck:
    ...     offset = file.alloc(100)
    ...     file.write(offset, bytes(100))      # the first goes well
    ...     try:
    ...         file.write(offset, bytes(100))
    ...     except OSError as error:
    ...         print(errno.errorcode[error.errno], struck.hits())
    ENOSPC [1]
    """

    faults: Sequence[Fault] = field(default_factory=tuple)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "faults", tuple(self.faults))

    @classmethod
    def random(cls, seed: int, count: int, transfers: int,
               kinds: Sequence[Kind] = ("error", "short", "interrupt", "lost", "torn", "flip",
                                        "elsewhere")) -> FaultPlan:
        """A plan of `count` faults, each at a random one of the first `transfers` transfers.

        Parameters
        ----------
        seed : int
            Decides everything, here and when it runs.
        count : int
            How many faults.
        transfers : int
            The highest number that a fault may strike.
        kinds : sequence of str
            To choose from; ``delay`` is 1 to 20 ms.
        """
        dice = random.Random(seed)
        faults = []
        for _ in range(count):
            kind = dice.choice(kinds)
            operation = _ONLY.get(kind) or dice.choice(("read", "write"))
            argument = {
                "error": dice.choice((errno_names.EIO, errno_names.ENOSPC, errno_names.EDQUOT)),
                "interrupt": dice.randint(1, 5),
                "delay": dice.randint(1, 20),
                "elsewhere": dice.choice((-1, 1)) * 4096 * dice.randint(1, 16),
            }.get(kind)
            if operation == "read" and kind == "error":
                argument = errno_names.EIO
            faults.append(Fault(operation, kind, dice.randint(1, transfers), 1.0, argument))  # type: ignore[arg-type]
        return cls(faults, seed)

    def rows(self) -> list[Row]:
        """The plan as plain tuples."""
        return [fault.row() for fault in self.faults]

    def install(self, target: TakesFaults) -> Hits | None:
        """Strike `target` from now on, in place of any other plan; None for an empty plan."""
        return target.install_faults(self.rows(), self.seed)

    @contextmanager
    def installed(self, target: TakesFaults) -> Iterator[Hits]:
        """Strike `target` inside a with block; gives how often each fault has struck."""
        struck = self.install(target)
        try:
            yield struck if struck is not None else _NoHits()
        finally:
            target.install_faults([])


class _NoHits:
    def hits(self) -> list[int]:
        return []
