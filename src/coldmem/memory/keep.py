"""Copies of what is loaded: kept in the pool as long as the unit is only read, if that pays.

A unit whose copy is still there leaves RAM without being compressed again. But the copy takes room that
hot pages could have. Both sides vote, as they happen: a copy that was used again for keeping; against it
a refault that would have been none, because the unit had left so lately that the room of all copies
would have held it until now (its distance in evictions, as the kernel's workingset.c measures it, is
below the number of units by which RAM would hold more). Where writes follow loads, copies are for
nothing: a predictor counts that.

A copy that was recompressed as cold and is loaded after all is dear to load: one in four is not kept, so
that what is used again and again comes to lie in the pool in its faster form.

Guarantees: an answer, never a wait. One load in 32 keeps its copy whatever the votes, or nobody would
vote for it any more.
Locks: none; counters are atomics, and a lost vote does not matter.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add_rel,
    a32_load_rlx,
    a32_store_rlx,
    a64_load_rlx,
)
from cython.cimports.coldmem.memory.state import count
from cython.cimports.libc.stdint import int32_t, uint64_t

PREDICTOR_HIGH = cython.declare(int32_t, 16)
PREDICTOR_MOST = cython.declare(int32_t, 64)
PREDICTOR_MIN = cython.declare(int32_t, -32)
KEEP_EVERY = cython.declare(uint64_t, 32)
COLD_EVERY = cython.declare(uint64_t, 4)
SCORE_FLIP = cython.declare(int32_t, 256)  # beyond it the other way is taken
SCORE_MOST = cython.declare(int32_t, 1024)
AVOIDABLE = cython.declare(int32_t, -4)  # a fault costs more than a compression in the background


def keep_copies(m, p, cold):
    units: uint64_t = a64_load_rlx(cython.address(m.clean_units))
    p.loads_kept += 1
    if cold and p.loads_kept % COLD_EVERY == 0:
        return False
    if p.loads_kept % KEEP_EVERY and (
        a32_load_rlx(cython.address(m.exclusive))
        or a32_load_rlx(cython.address(m.predictor)) > PREDICTOR_HIGH
    ):
        return False
    return units << m.unit_shift < m.keep_bytes


def keep_refault(m, p, distance):
    """RAM would hold more by the room of the copies, divided by what a unit takes more in RAM."""
    clean: uint64_t = a64_load_rlx(cython.address(m.clean_units))
    hot: uint64_t = a64_load_rlx(cython.address(m.hot_bytes)) >> m.unit_shift
    all: uint64_t = a64_load_rlx(cython.address(m.array_bytes)) >> m.unit_shift
    used: uint64_t = a64_load_rlx(cython.address(m.z.budget.used_bytes))
    stored: uint64_t = all - hot + clean if all + clean > hot else 1
    mean: uint64_t = used // (stored + 1)
    if mean >= m.unit_bytes:
        return
    if distance < a64_load_rlx(cython.address(m.cool_reach)):
        count(cython.address(p.counts.wanted), 1)
    if distance < clean * mean // (m.unit_bytes - mean):
        count(cython.address(p.counts.avoidable), 1)
        keep_vote(m, AVOIDABLE)


def keep_written(m):
    if a32_load_rlx(cython.address(m.predictor)) < PREDICTOR_MOST:
        a32_fetch_add_rel(cython.address(m.predictor), 1)


def keep_reused(m):
    keep_vote(m, 1)
    if a32_load_rlx(cython.address(m.predictor)) > PREDICTOR_MIN:
        a32_fetch_add_rel(cython.address(m.predictor), -1)


def keep_vote(m, vote):
    score: int32_t = a32_load_rlx(cython.address(m.keep_score))
    if (vote > 0 and score >= SCORE_MOST) or (vote < 0 and score <= -SCORE_MOST):
        return
    a32_fetch_add_rel(cython.address(m.keep_score), vote)
    if score > SCORE_FLIP and a32_load_rlx(cython.address(m.exclusive)):
        a32_store_rlx(cython.address(m.exclusive), 0)
    elif score < -SCORE_FLIP and not a32_load_rlx(cython.address(m.exclusive)):
        a32_store_rlx(cython.address(m.exclusive), 1)
