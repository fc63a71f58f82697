"""What a pool tells about itself: plain records, and the table that debugfs shows.

Columns are exactly those of the kernel's ``zsmalloc/<pool>/classes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GROUP_LABELS = ("10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "99%", "100%")
COLUMNS = ("class", "size", *GROUP_LABELS, "obj_allocated", "obj_used", "pages_used",
           "pages_per_zspage", "freeable")


@dataclass(frozen=True, slots=True)
class ClassStats:
    """One size class at one moment.

    Attributes
    ----------
    zspages_by_group : tuple of int
        Eleven counts, emptiest first, as `GROUP_LABELS`.
    obj_allocated, obj_used : int
        Places for objects, and objects in use by the owner (those in magazines are not).
    obj_cached : int
        Objects that magazines hold.
    pages_used, freeable : int
        Units in use, and units that compaction could free.
    """

    index: int
    size: int
    zspages_by_group: tuple[int, ...]
    obj_allocated: int
    obj_used: int
    obj_cached: int
    pages_used: int
    pages_per_zspage: int
    freeable: int

    def row(self) -> tuple[int, ...]:
        """Values in the order of `COLUMNS`."""
        return (self.index, self.size, *self.zspages_by_group, self.obj_allocated, self.obj_used,
                self.pages_used, self.pages_per_zspage, self.freeable)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A whole pool at one moment; counts of bytes unless the name says otherwise.

    Attributes
    ----------
    used_bytes : int
        Memory of all zspages: what the limit is about.
    limit_bytes, peak_bytes : int
        The limit (of all pools that share it), and the highest `used_bytes` so far.
    objects : int
        Objects that the owner has.
    objects_cached : int
        Objects in magazines.
    resident_free_bytes : int
        Freed runs of zspages that have not gone back to the OS yet.
    released_bytes, release_calls : int
        Given back to the OS so far, and the system calls that it took.
    metadata_bytes : int
        Handles, descriptors, classes and magazines, as far as they are in memory.
    pages_compacted, objects_moved : int
        Units freed and objects moved by compaction so far.
    node_units : tuple of int
        Units in use on each simulated node.
    units_migrated, objects_migrated : int
        Units of zspages that changed their node wholly, and objects that did, so far.
    """

    used_bytes: int
    limit_bytes: int
    peak_bytes: int
    objects: int
    objects_cached: int
    zspages: int
    resident_free_bytes: int
    released_bytes: int
    release_calls: int
    metadata_bytes: int
    pages_compacted: int
    objects_moved: int
    node_units: tuple[int, ...] = ()
    units_migrated: int = 0
    objects_migrated: int = 0


@dataclass(frozen=True, slots=True)
class LockStats:
    """Counts of one kind of lock, summed over all locks of the kind.

    Attributes
    ----------
    acquisitions, contended : int
        How often it was taken, and how often somebody else had it.
    wait_ns : int
        Time spent waiting, summed over threads.
    """

    acquisitions: int
    contended: int
    wait_ns: int


def format_classes(rows: Sequence[ClassStats]) -> str:
    """The table of debugfs, with its Total row.

    Parameters
    ----------
    rows : sequence of ClassStats
        What `Pool.class_stats` returned.
    """
    lines = [list(COLUMNS)]
    lines += [[str(value) for value in row.row()] for row in rows]
    total: list[object] = ["Total", ""]
    total += [sum(r.zspages_by_group[g] for r in rows) for g in range(len(GROUP_LABELS))]
    total += [sum(r.obj_allocated for r in rows), sum(r.obj_used for r in rows),
              sum(r.pages_used for r in rows), "", sum(r.freeable for r in rows)]
    lines.append([str(value) for value in total])
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        " ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
