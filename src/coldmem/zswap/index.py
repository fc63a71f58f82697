"""The index of a shard: from slot to entry.

Owns: the cells of each shard. A cell is the upper half of the slot's hash and the number of an
entry; cell 0 is empty. Linear probing, at most 3/4 full; removal shifts later cells back, so there
are no tombstones and a search ends at the first empty cell.
Guarantees: growing and shrinking happen inside one shard, under its lock, and never lose an entry.
Assumes: the caller holds the lock of the shard.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_store_rlx, a64_fetch_add_rlx, a64_store_rlx
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free


def index_init(z, s):
    """0, or -1 when there is no memory."""
    s.cells = cython.cast(U64P, calloc(CELLS_MIN, cython.sizeof(uint64_t)))
    s.cells_mask = CELLS_MIN - 1
    s.used = 0
    a64_fetch_add_rlx(cython.address(z.index_bytes), CELLS_MIN * cython.sizeof(uint64_t))
    return 0 if s.cells != cython.NULL else -1


def index_destroy(s):
    free(s.cells)
    s.cells = cython.NULL


def index_rehash(z, s, cells_n):
    """Move all cells into a table of cells_n (a power of two); False when there is no memory."""
    cells: U64P
    i: uint64_t
    at: uint64_t
    cells = cython.cast(U64P, calloc(cells_n, cython.sizeof(uint64_t)))
    if cells == cython.NULL:
        return False
    for i in range(cython.cast(uint64_t, s.cells_mask) + 1):
        if s.cells[i] != 0:
            at = (s.cells[i] >> 32) & (cells_n - 1)
            while cells[at] != 0:
                at = (at + 1) & (cells_n - 1)
            cells[at] = s.cells[i]
    free(s.cells)
    a64_store_rlx(cython.cast(U64P, cython.address(s.cells)), cython.cast(uint64_t, cells))
    a64_fetch_add_rlx(
        cython.address(z.index_bytes),
        (cells_n - (cython.cast(uint64_t, s.cells_mask) + 1)) * cython.sizeof(uint64_t),
    )
    a32_store_rlx(
        cython.cast(I32P, cython.address(s.cells_mask)), cython.cast(int32_t, cells_n - 1)
    )
    s.rehashes += 1
    return True


def index_grow(z, s):
    cells_n: uint64_t = cython.cast(uint64_t, s.cells_mask) + 1
    if index_room(s):
        return True
    # Without memory for the larger table the old one serves on, up to its last cell but one.
    return index_rehash(z, s, cells_n * 2) or s.used + 1 < cells_n


def index_remove(z, s, hash, entry):
    """Take the cell of `entry` out and close the gap."""
    mask: uint32_t = s.cells_mask
    at: uint32_t = cython.cast(uint32_t, hash >> 32) & mask
    gap: uint32_t
    home: uint32_t
    while cython.cast(uint32_t, s.cells[at]) != entry:
        at = (at + 1) & mask
    gap = at
    while True:
        at = (at + 1) & mask
        if s.cells[at] == 0:
            break
        home = cython.cast(uint32_t, s.cells[at] >> 32) & mask
        # The cell may fill the gap when its home does not lie between the gap and where it is.
        if ((at - home) & mask) >= ((at - gap) & mask):
            s.cells[gap] = s.cells[at]
            gap = at
    s.cells[gap] = 0
    s.used -= 1
    if s.used * cython.cast(uint64_t, 8) < mask and mask >= CELLS_MIN * 2:
        index_rehash(z, s, (cython.cast(uint64_t, mask) + 1) // 4)
