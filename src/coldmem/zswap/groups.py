"""`Group`: a memory cgroup in small, as Python sees it.

Owns: nothing but a name and an id; see group.py for charges and limits. Several objects may stand for
one group.
Guarantees: once the group is removed every method raises.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a32_store_rlx,
    a64_load_rlx,
    a64_store_rlx,
)
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.counters import group_stats
from cython.cimports.coldmem.zswap.reclaim import (
    Reclaimed,
    group_charge_hot,
    group_uncharge_hot,
    reclaim_below,
    shrink_bytes,
    shrink_count,
)
from cython.cimports.coldmem.zswap.state import GroupP, WorkContextP, ZswapP
from cython.cimports.libc.stdint import uint32_t, uint64_t

from coldmem.errors import ClosedError, MemoryLimitError, UsageError
from coldmem.units import format_bytes, parse_bytes

NO_LIMIT = 0xFFFFFFFFFFFFFFFF


def _limit(value):
    return NO_LIMIT if value is None or value == "max" else parse_bytes(value)


def _shown(value):
    return None if value == NO_LIMIT else value


class Group:
    """Units that share limits; get one with `Zswap.group`.

    Attributes
    ----------
    name : str
    parent : Group or None
        The group above it; None: the root, which has no limits.
    zswap : Zswap
    """

    def __init__(self):
        raise UsageError("groups are made by Zswap.group(name)")

    def _enter(self):
        w: WorkContextP
        if self.zswap.group_id(self) != self.id:
            raise UsageError(f"group {self.name!r} was removed")
        with cython.nogil:
            w = context_get(self.c)
        if w == cython.NULL:
            raise ClosedError("the Zswap of this group is closed")
        return w

    @property
    def memory_max(self):
        """Most bytes of RAM: units as stored, their metadata, and what is charged as hot.

        None: no limit. Setting it below what is in use writes back what it can at once.
        """
        return self._get(0)

    @memory_max.setter
    def memory_max(self, value):
        self._set(0, value)

    @property
    def zswap_max(self):
        """Most bytes of units as stored in RAM. None: no limit; 0: no unit of this group in RAM."""
        return self._get(1)

    @zswap_max.setter
    def zswap_max(self, value):
        self._set(1, value)

    @property
    def swap_max(self):
        """Most bytes in the swap file. None: no limit."""
        return self._get(2)

    @swap_max.setter
    def swap_max(self, value):
        self._set(2, value)

    def _get(self, which):
        w: WorkContextP = self._enter()
        g: GroupP = self.c.groups + self.id
        i: cython.int = which
        try:
            return _shown(a64_load_rlx(cython.address(g.memory_max) + i))
        finally:
            context_put(self.c, w)

    def _set(self, which, value):
        limit: uint64_t = _limit(value)
        w: WorkContextP = self._enter()
        z: ZswapP = self.c
        id: uint32_t = self.id
        g: GroupP = z.groups + id
        i: cython.int = which
        with cython.nogil:
            a64_store_rlx(cython.address(g.memory_max) + i, limit)
            while i == 0 and a64_load_rlx(cython.address(g.memory_bytes)) > limit:
                if reclaim_below(z, id, w) == 0:
                    break
            context_put(z, w)

    @property
    def zswap_writeback(self):
        """May units of this group, and of those below it, go to the swap file?"""
        w: WorkContextP = self._enter()
        try:
            return a32_load_rlx(cython.address(self.c.groups[self.id].writeback)) != 0
        finally:
            context_put(self.c, w)

    @zswap_writeback.setter
    def zswap_writeback(self, value):
        w: WorkContextP = self._enter()
        a32_store_rlx(cython.address(self.c.groups[self.id].writeback), 1 if value else 0)
        context_put(self.c, w)

    def stats(self):
        """Counts as in a cgroup's memory.stat, those of the groups below it included.

        Returns
        -------
        dict
            ``zswap`` (bytes as stored in RAM), ``zswapped`` (bytes that they stand for), ``zswpin``,
            ``zswpout``, ``zswpwb`` (units), ``zswap_incomp`` (bytes of units stored raw), ``swap``
            (bytes in the swap file), ``swapped`` (bytes that they stand for), ``swpin_disk``
            (units), ``memory`` (charged against memory_max), ``hot`` (part of it), ``reject_limit``
            (stores that this group's limits refused), ``writeback_fail`` (writebacks that
            swap_max refused).
        """
        w: WorkContextP = self._enter()
        try:
            return group_stats(self.c, self.id)
        finally:
            context_put(self.c, w)

    def charge(self, nbytes):
        """Count `nbytes` of data kept uncompressed elsewhere against memory_max.

        Raises
        ------
        MemoryLimitError
            They do not fit, even after writing back what could be.
        """
        w: WorkContextP
        n: uint64_t = parse_bytes(nbytes)
        z: ZswapP = self.c
        id: uint32_t = self.id
        ok: cython.bint
        w = self._enter()
        with cython.nogil:
            ok = group_charge_hot(z, id, n, w)
            context_put(z, w)
        if not ok:
            raise MemoryLimitError(
                f"group {self.name!r} has no room for {format_bytes(n)}: raise its memory_max, or "
                "invalidate units"
            )

    def uncharge(self, nbytes):
        """Take back `nbytes` of what `charge` counted."""
        w: WorkContextP
        n: uint64_t = parse_bytes(nbytes)
        hot: uint64_t
        w = self._enter()
        hot = a64_load_rlx(cython.address(self.c.groups[self.id].hot_bytes))
        if n <= hot:
            group_uncharge_hot(self.c, self.id, n)
        context_put(self.c, w)
        if n > hot:
            raise UsageError(f"{n} bytes were never charged to group {self.name!r}: only {hot} are")

    def freeable(self):
        """Units that the shrinker's rule would let go of now (kernel: the shrinker's count)."""
        w: WorkContextP = self._enter()
        try:
            return shrink_count(self.c, self.id, False)
        finally:
            context_put(self.c, w)

    def shrink(self, nbytes, gentle=False):
        """Write back up to `nbytes` of this group and those below; as `Zswap.shrink`."""
        n: uint64_t = parse_bytes(nbytes)
        z: ZswapP = self.c
        id: uint32_t = self.id
        rule: cython.bint = gentle
        out: Reclaimed
        w: WorkContextP = self._enter()
        with cython.nogil:
            shrink_bytes(z, id, n, rule, w, cython.address(out))
            context_put(z, w)
        return out.freed_bytes

    def remove(self):
        """End the group; its units go to its parent.

        Raises
        ------
        UsageError
            It has groups below it, or was removed already.
        """
        self.zswap._remove_group(self)

    def __repr__(self):
        return f"<coldmem.zswap.Group {self.name!r}>"
