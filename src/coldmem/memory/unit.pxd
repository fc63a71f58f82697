# Locks and changes of unit words.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport (
    a64_cas, a64_fetch_add_rel, a64_load_acq, a64_load_rlx, a64_store_rel,
)
from coldmem.memory.state cimport LOCK, PIN_SHIFT, Counts, MemoryC

# Take the lock of a unit: its word before that. May wait; the holder never waits for us.
cdef uint64_t unit_lock(MemoryC *m, uint64_t unit, Counts *counts) noexcept nogil

# Take it if it is free and the word is still `w`.
cdef inline bint unit_trylock(MemoryC *m, uint64_t unit, uint64_t w) noexcept nogil:
    return (w & LOCK) == 0 and a64_cas(&m.words[unit], w, w | LOCK)

# Put a new word, whose lock bit is clear.
cdef inline void unit_unlock(MemoryC *m, uint64_t unit, uint64_t w) noexcept nogil:
    a64_store_rel(&m.words[unit], w & ~<uint64_t> LOCK)

# Pins are added and taken under the lock, too: a plain word with one pin more or less.
cdef inline uint64_t pin_one() noexcept nogil:
    return <uint64_t> 1 << PIN_SHIFT
