"""Geometry of the size classes.

Owns: the rules that turn a unit size and a chain limit into classes; nothing else. Plain arithmetic,
run once per pool. The rules are those of the Linux kernel's zsmalloc with PAGE_SIZE = unit: a step of
unit/256 between classes, the chain length with the least waste, and merging of classes whose zspages
have the same shape. The tables that they give are tested against oracles in tests/zsmalloc/oracles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coldmem.errors import InvalidSizeError, UsageError

HEADER_BYTES = 8
MIN_SIZE = 32
MAX_CHAIN = 16
UNIT_SIZES = (4096, 16384, 65536)

ChainRule = Literal["waste", "percent"]
CHAIN_RULES: tuple[ChainRule, ...] = ("waste", "percent")


@dataclass(frozen=True, slots=True)
class SizeClass:
    """One size class.

    Attributes
    ----------
    index : int
        Slot in the table; of merged slots the highest, which is the one that is used.
    size : int
        Bytes of an object, its 8-byte header included (a huge object has no header).
    units_per_zspage, objs_per_zspage : int
        Shape of a zspage of this class.
    huge : bool
        One object fills one unit; its header lies outside.
    waste_bytes : int
        Bytes at the end of a zspage that no object uses.
    """

    index: int
    size: int
    units_per_zspage: int
    objs_per_zspage: int
    huge: bool
    waste_bytes: int


def chain_length(size: int, unit_bytes: int, chain: int, rule: ChainRule) -> int:
    """Units in a zspage for objects of `size` bytes: 1..`chain`.

    ``"waste"`` takes the least bytes left over, ``"percent"`` (the rule before Linux 6.3) the highest
    whole percentage used; the first of equals wins, and a power of two takes one unit.
    """
    if size & (size - 1) == 0:
        return 1
    lengths = range(1, chain + 1)
    if rule == "waste":
        return min(lengths, key=lambda k: (k * unit_bytes % size, k))
    return max(lengths, key=lambda k: (_percent_used(size, k * unit_bytes), -k))


def _percent_used(size: int, zspage_bytes: int) -> int:
    return zspage_bytes // size * size * 100 // zspage_bytes


class SizeClasses:
    """All size classes of a pool, and the way from a payload size to its class.

    Parameters
    ----------
    unit_bytes : {4096, 16384, 65536}
        Largest payload, and the grain of zspages; the kernel's PAGE_SIZE.
    chain : int
        Most units in a zspage, 1..16. The kernel's CONFIG_ZSMALLOC_CHAIN_SIZE; its default is 8.
    rule : {"waste", "percent"}
        How the chain length of a class is chosen; see `chain_length`.

    Attributes
    ----------
    classes : tuple of SizeClass
        The distinct classes, smallest first.
    class_of_slot : tuple of int
        For each slot the `index` of the class that serves it (merging).
    huge_class_size : int
        Payloads of this many bytes or more take a unit each.
    """

    def __init__(self, unit_bytes: int = 4096, chain: int = 8, rule: ChainRule = "waste") -> None:
        if unit_bytes not in UNIT_SIZES:
            raise InvalidSizeError(f"unit of {unit_bytes} bytes: choose one of {UNIT_SIZES}")
        if not 1 <= chain <= MAX_CHAIN:
            raise UsageError(f"chain of {chain} units: choose 1 to {MAX_CHAIN}")
        if rule not in CHAIN_RULES:
            raise UsageError(f"chain rule {rule!r}: choose one of {CHAIN_RULES}")
        self.unit_bytes = unit_bytes
        self.chain = chain
        self.rule = rule
        self.step = unit_bytes >> 8
        slots = -(-(unit_bytes - MIN_SIZE) // self.step) + 1
        by_slot: list[SizeClass] = []
        for index in reversed(range(slots)):  # largest first: equal shapes merge upwards
            made = self._make(index)
            if by_slot and _shape(by_slot[-1]) == _shape(made):
                made = by_slot[-1]
            by_slot.append(made)
        by_slot.reverse()
        self.class_of_slot = tuple(c.index for c in by_slot)
        self.classes = tuple(sorted(set(by_slot), key=lambda c: c.index))
        self._by_slot = tuple(by_slot)
        small = [c.size for c in self.classes if not c.huge]
        self.huge_class_size = (max(small) if small else 0) - (HEADER_BYTES - 1)

    def _make(self, index: int) -> SizeClass:
        size = min(MIN_SIZE + index * self.step, self.unit_bytes)
        units = chain_length(size, self.unit_bytes, self.chain, self.rule)
        objs = units * self.unit_bytes // size
        return SizeClass(index, size, units, objs, units == objs == 1,
                         units * self.unit_bytes - objs * size)

    def __len__(self) -> int:
        return len(self._by_slot)

    def lookup(self, size: int) -> SizeClass:
        """The class that stores a payload of `size` bytes, header counted.

        Raises
        ------
        InvalidSizeError
            When `size` is not 1..unit_bytes.
        """
        if not 1 <= size <= self.unit_bytes:
            raise InvalidSizeError(
                f"object of {size} bytes: this pool stores 1 to {self.unit_bytes} bytes each"
            )
        slot = max(0, -(-(size + HEADER_BYTES - MIN_SIZE) // self.step))
        return self._by_slot[min(slot, len(self._by_slot) - 1)]


def _shape(c: SizeClass) -> tuple[int, int]:
    return c.units_per_zspage, c.objs_per_zspage
